"""towerdsl: a declarative language for attention architectures, compiled to readable PyTorch.

import towerdsl
Bert = towerdsl.compile("bert", depth=6)              # a torch.nn.Module class
model = towerdsl.load("bert", checkpoint="model.safetensors", format="huggingface", depth=6)
"""

from __future__ import annotations

from typing import Any

from towerdsl.diagnostics import Diagnostic, TowerError

__version__ = "0.1.0"
__all__ = [
    "Diagnostic",
    "TowerError",
    "compile",
    "diff",
    "draw",
    "load",
    "load_checkpoint",
    "probe",
    "register_op",
    "save",
    "save_checkpoint",
    "source",
    "verify",
]

_LAZY = {
    "compile": "towerdsl.api",
    "diff": "towerdsl.api",
    "draw": "towerdsl.api",
    "load": "towerdsl.api",
    "save": "towerdsl.api",
    "source": "towerdsl.api",
    "verify": "towerdsl.api",
    "load_checkpoint": "towerdsl.weights",
    "probe": "towerdsl.maps.probing",
    "save_checkpoint": "towerdsl.weights",
    "register_op": "towerdsl.ops",
}


def __getattr__(name: str) -> Any:
    """The interface is loaded at its first use, so that the command line starts fast."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'towerdsl' has no attribute {name!r}")
