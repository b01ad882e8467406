"""How long the compiler takes."""

from __future__ import annotations

from dataclasses import dataclass

from rows import Call, Row

from towerdsl.compiler import compile_spec


@dataclass(frozen=True)
class Compiling:
    """A spec, from its text to Python source."""

    spec: str

    def forward(self) -> tuple[Call, None]:
        """The source of the model."""
        return lambda: compile_spec(self.spec).source(), None

    def backward(self) -> tuple[Call, None]:
        """The same: there is nothing to train."""
        return self.forward()


ROWS = (Row("BERT-base compile", "", lambda tiny: Compiling("bert"), forward=1.0),)
