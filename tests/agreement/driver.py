"""One attention, compared in many ways: each kind of comparison is a switch.

A spec is understood once, and every kernel that does not refuse writes its source from that. `check` of a `Case` raises
an AssertionError that says which comparison failed, and the case's text, lengths and seed: `check(Case(text, lengths,
seed), [kind])` does the same again.
"""

import linecache
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from towerdsl.compiler import PASSES, Compiled, deep, understand
from towerdsl.emit.module import load_module
from towerdsl.ir.names import class_name
from towerdsl.ir.types import RelationType
from towerdsl.kernels.base import Facts, Plan
from towerdsl.kernels.catalog import CATALOG
from towerdsl.kernels.choose import attentions, choose
from towerdsl.lowered.verify import verify
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.inference import inference as inference_form

from . import compare, rounding
from .compare import Named
from .drawing import Drawn
from .evaluate import looped

#: Blocks so small that there are several.
SMALL_BLOCKS = (compare.SMALL_BLOCKS, patch("towerdsl.kernels.factored.BLOCK", 2))


@dataclass(frozen=True)
class Case:
    """An attention, and what it is given: the same case is always given the same numbers."""

    text: str
    lengths: dict[str, int]  # of the free axes
    seed: int = 0
    left_out: frozenset[str] = frozenset()
    drawn: Drawn | None = field(default=None, compare=False, repr=False)  # what loops evaluate

    def __str__(self) -> str:
        without = f", left_out=frozenset({set(self.left_out)})" if self.left_out else ""
        return f"{self.text}# Case(text, {self.lengths}, {self.seed}{without})"


@dataclass
class Attention:
    """A spec that is understood, and its models: `planned`, `reference` and each kernel that does not refuse."""

    text: str
    models: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with deep():
            self.resolved, self.typed = understand(self.text, {})
            model = self.typed
            for one_pass in PASSES:
                model = one_pass(model)
            self.model = model
            plan = choose(self.average)
            self.planned = plan.kernel.name
            self.models["planned"] = self.built(plan)
            with small_blocks():
                for device, kernels in (("cpu", CATALOG), ("cuda", [k for k in CATALOG if k.name == "flex"])):
                    facts = Facts(plan.facts.locality, plan.facts.score, device)
                    for kernel in kernels:
                        if kernel.refuse(self.average, facts) is None:
                            self.models[kernel.name] = self.built(Plan(kernel, (), facts))
        self.reference = self.models.pop("reference")

    @property
    def kernels(self) -> list[str]:
        return [name for name in self.models if name != "planned"]

    @property
    def average(self):
        (block,) = attentions(self.model.root)
        return block.average

    def built(self, plan: Plan, model=None) -> nn.Module:
        model = model or self.model
        (block,) = attentions(model.root)
        compiled = Compiled(model, self.typed, self.resolved, {id(block): plan}, ())
        verify(compiled.lowered[id(block)])
        return made(compiled.source(), model.name).eval()

    def inference(self) -> nn.Module:
        with deep():
            model = inference_form(self.model)
            (block,) = attentions(model.root)
            return self.built(choose(block.average), model)

    @property
    def free(self) -> list[str]:
        """The names of the lengths that are bound at run time."""
        kinds = [i.type for i in self.model.inputs]
        axes = [a for k in kinds for a in ((k.source, k.target) if isinstance(k, RelationType) else k.axes)]
        return list(dict.fromkeys(name for a in axes for name in a.size.free_names))

    def inputs(self, case: Case) -> Named:
        """Random inputs, those too that are left out."""
        draw = torch.Generator().manual_seed(case.seed)
        found = {}
        for i in self.model.inputs:
            ends = (i.type.source, i.type.target) if isinstance(i.type, RelationType) else i.type.axes
            shape = [a.size.integer if a.size.integer is not None else case.lengths[a.name] for a in ends]
            found[i.name] = drawn(i.name, i.type.dtype, shape, draw)
            if i.name in case.left_out:
                found[i.name] = torch.full_like(found[i.name], i.default)
        return found

    def params(self, case: Case) -> Named:
        return compare.draw_params(self.reference, torch.Generator().manual_seed(case.seed + 1))

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers while training."""
        return bool(NORMALIZERS[self.average.normalize].draws or self.average.dropout)

    @property
    def jumps(self) -> bool:
        """Whether a small change of a score may change which keys count at all."""
        return self.average.normalize.startswith(("hard", "topk"))


def drawn(name: str, dtype: str, shape: list[int], draw: torch.Generator) -> Tensor:
    """A random input: relations have pairs that are named twice, nodes alone, or no pair; conditions may be false."""
    if dtype == "relation":
        count = 0 if 0 in shape else (0, 1, 3, 6, 12)[int(torch.randint(5, (), generator=draw))]
        pairs = torch.stack([torch.randint(n or 1, (count,), generator=draw) for n in shape])
        return torch.cat((pairs, pairs[:, : count // 3]), 1)
    if dtype == "bool":
        most = (0.6, 0.6, 0.6, 0.2, 1.1, -1.0)[int(torch.randint(6, (), generator=draw))]
        return torch.rand(shape, generator=draw) < most
    if dtype == "float" and name.startswith("p"):
        return torch.rand(shape, generator=draw, dtype=torch.float64) + 0.5
    return compare.draw_input(dtype, shape, draw)


def made(source: str, name: str) -> nn.Module:
    return getattr(load_module(source, name), class_name(name))().double()


def forget() -> None:
    """Nothing is kept of thousands of compiled modules."""
    for name in [x for x in sys.modules if x.startswith("towerdsl.compiled.")]:
        linecache.cache.pop(sys.modules.pop(name).__file__, None)


@contextmanager
def small_blocks() -> Iterator[None]:
    with SMALL_BLOCKS[0], SMALL_BLOCKS[1]:
        yield


# --- the kinds of comparison -----------------------------------------------------------------------------------

Kind = Callable[[Attention, Case], None]
KINDS: dict[str, Kind] = {}
#: Pairs, of all heads and the whole batch, that loops look at.
MOST_PAIRS = 150
#: How often what was compared.
COUNTED: Counter[str] = Counter()


def kind(function: Kind) -> Kind:
    KINDS[function.__name__] = function
    return function


def scaled(inputs: Named, factor: float) -> Named:
    """Larger inputs, but for those that are divided by."""
    return {n: x * factor if x.is_floating_point() and not n.startswith("p") else x for n, x in inputs.items()}


def given(case: Case, inputs: Named) -> Named:
    return {name: x for name, x in inputs.items() if name not in case.left_out}


def check(case: Case, kinds=("kernels",), attention: Attention | None = None) -> None:
    """Compare in these ways. Raises AssertionError."""
    attention = attention or Attention(case.text)
    for name in kinds:
        COUNTED[name] += 1
        try:
            KINDS[name](attention, case)
        except Exception as error:
            told = f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else error
            raise AssertionError(f"{name}: {told}\n{case}") from error


def agree(attention: Attention, case: Case, run=compare.run, allowed: Named | None = None) -> None:
    """Every kernel gives the reference's values and gradients."""
    params, inputs = attention.params(case), given(case, attention.inputs(case))
    expected = run(attention.reference, params, inputs)
    for name, model in attention.models.items():
        COUNTED[f"comparisons of {name}"] += 1
        compare.compare(name, run(model, params, inputs), expected, allowed)


@kind
def loops(attention: Attention, case: Case) -> None:
    """The reference gives what plain loops give, where they are short."""
    if case.drawn is None or case.drawn.pairs > MOST_PAIRS:
        return
    COUNTED["by loops"] += 1
    params, inputs = attention.params(case), attention.inputs(case)
    expected = looped(case.drawn, attention.model.root.results, params, inputs)
    compare.compare("loops", compare.run(attention.reference, params, given(case, inputs)), expected)


@kind
def kernels(attention: Attention, case: Case) -> None:
    agree(attention, case)


def others(attention: Attention, case: Case, lengths: list[dict[str, int]]) -> None:
    for other in lengths if attention.free else ():
        try:
            agree(attention, replace(case, lengths=other))
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} with {other}: {error}") from error


@kind
def lengths(attention: Attention, case: Case) -> None:
    """Other lengths: one, fewer, more."""
    draw = torch.Generator().manual_seed(case.seed + 2)
    fewer = {x: int(torch.randint(1, max(2, n), (), generator=draw)) for x, n in case.lengths.items()}
    more = {x: n + int(torch.randint(1, 5, (), generator=draw)) for x, n in case.lengths.items()}
    one = dict.fromkeys(case.lengths, 1)
    others(attention, case, [one, fewer, more][case.seed % 3 :])


@kind
def empty(attention: Attention, case: Case) -> None:
    """An axis of length 0."""
    free = sorted(attention.free)
    others(attention, case, [case.lengths | {name: 0} for name in free[case.seed % max(1, len(free)) :][:1]])


@kind
def large(attention: Attention, case: Case) -> None:
    """Scores far from 0: as far from the reference as rounding may be."""
    params, inputs = attention.params(case), given(case, attention.inputs(case))
    inputs = scaled(inputs, 30)
    bound = rounding.Bound(attention.reference, params, inputs, torch.float64)
    for name, model in attention.models.items():
        bound.compare(name, compare.run(model, params, inputs))


def _half(attention: Attention, case: Case, dtype: torch.dtype) -> None:
    params, inputs = attention.params(case), given(case, attention.inputs(case))
    if case.seed % 4 == 0:
        inputs = scaled(inputs, 16)
    params, inputs = (rounding.cast(x, dtype) for x in (params, inputs))
    exact = [rounding.cast(x, torch.float64) for x in (params, inputs)]
    bound = rounding.Bound(attention.reference, *exact, dtype)
    if bound.largest > torch.finfo(dtype).max / 2:
        COUNTED["beyond the range of a dtype"] += 1
        return
    for name, model in {"reference": attention.reference, **attention.models}.items():
        if name == "flex":  # torch's own on a CPU is not for half precision
            continue
        model.to(dtype)
        found = compare.run(model, params, inputs)
        model.to(torch.float64)
        for what, x in found.items():
            assert x.dtype == (dtype if bound.expected[what].is_floating_point() else x.dtype), (
                f"{name}, {what}: {x.dtype}"
            )
        bound.compare(name, found)


@kind
def bf16(attention: Attention, case: Case) -> None:
    _half(attention, case, torch.bfloat16)


@kind
def fp16(attention: Attention, case: Case) -> None:
    _half(attention, case, torch.float16)


@kind
def autocast(attention: Attention, case: Case) -> None:
    """Training under autocast: linear layers and products in bf16."""
    params, inputs = attention.params(case), given(case, attention.inputs(case))
    params, inputs = (rounding.cast(x, torch.float32) for x in (params, inputs))
    exact = [rounding.cast(x, torch.float64) for x in (params, inputs)]
    bound = rounding.Bound(attention.reference, *exact, torch.bfloat16, given=True)
    for name, model in {"reference": attention.reference, **attention.models}.items():
        if name == "flex":
            continue
        model.float()
        with torch.autocast("cpu", torch.bfloat16):
            found = compare.run(model, params, inputs)
        model.double()
        bound.compare(name, found)


@kind
def inference(attention: Attention, case: Case) -> None:
    """The inference form's values in float32."""
    params, inputs = attention.params(case), given(case, attention.inputs(case))
    params, inputs = (rounding.cast(x, torch.float32) for x in (params, inputs))
    exact = [rounding.cast(x, torch.float64) for x in (params, inputs)]
    bound = rounding.Bound(attention.reference, *exact, torch.float32)
    model = attention.inference().float()
    model.load_state_dict(params)
    with torch.no_grad():
        bound.compare("inference", compare.results(model(**inputs)))


@kind
def training(attention: Attention, case: Case) -> None:
    """In training mode, where nothing is drawn, the same."""
    if attention.draws:
        return
    for model in attention.models.values():
        model.train()
    try:
        agree(attention, case)
    finally:
        for model in attention.models.values():
            model.eval()


@kind
def second(attention: Attention, case: Case) -> None:
    """Gradients of gradients: the reference's, or an error."""
    if attention.jumps or attention.average.normalize == "sparsemax":
        return
    params, inputs = attention.params(case), given(case, attention.inputs(case))
    expected = compare.run_twice(attention.reference, params, inputs)
    for name, model in attention.models.items():
        try:
            found = compare.run_twice(model, params, inputs)
        except (RuntimeError, NotImplementedError):
            COUNTED[f"no second derivative of {name}"] += 1
            continue
        compare.compare(
            name, found, expected, {n: 1e-8 * (1 + x.abs().max()) for n, x in expected.items() if x.numel()}
        )


def _compiled(attention: Attention, case: Case, backend: str) -> None:
    params = attention.params(case)
    name, model = list({"reference": attention.reference, **attention.models}.items())[
        case.seed % (1 + len(attention.models))
    ]
    if name == "flex":
        return
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, dynamic=True)
    sizes = [case.lengths, {n: x + 1 for n, x in case.lengths.items()}]
    for other in sizes[: 2 if attention.free else 1]:
        inputs = given(case, attention.inputs(replace(case, lengths=other)))
        expected = compare.run(attention.reference, params, inputs)
        found = compare.run(compiled, {f"_orig_mod.{n}": p for n, p in params.items()}, inputs)
        found = {n.replace("_orig_mod.", ""): x for n, x in found.items()}
        compare.compare(f"{name}, {backend}, {other}", found, expected)
    torch._dynamo.reset()


@kind
def eager(attention: Attention, case: Case) -> None:
    _compiled(attention, case, "eager")


@kind
def aot(attention: Attention, case: Case) -> None:
    _compiled(attention, case, "aot_eager_decomp_partition")
