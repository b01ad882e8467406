"""One attention and the arguments of a call --> what holds of it, measured in float64."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from towerdsl.claims import draw, probe
from towerdsl.claims.capture import Call
from towerdsl.claims.claimed import GRADIENTS, VALUES, Claimed, claimed
from towerdsl.claims.condition import Pairs, Roles, bind, heads_of, lookups
from towerdsl.claims.verified import Failure
from towerdsl.claims.wording import Reading
from towerdsl.compiler import Compiled
from towerdsl.explain.spell import Speller
from towerdsl.ir import nodes as n
from towerdsl.ir.types import Axis, RelationType
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.score import sides
from towerdsl.weights.wrapped import plain

Named = dict[str, Tensor]
#: Numbers of a condition up to which one of the lengths is larger than two of them.
FAR = 512


@dataclass(frozen=True)
class Measured:
    """What `Checked` says of the numbers of one call."""

    values: float | None
    gradients: float | None
    float32: float | None
    claimed: Claimed
    low: float | None
    high: float | None
    row_low: float | None
    row_high: float | None
    pairs: int
    hidden: int
    rows: int
    empty: int
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]


def measure(compiled: Compiled, typed: n.BlockInstance, call: Call, seed: int = 0) -> Measured:
    """Measure one call of an attention. `typed` is its block as it was before any pass."""
    return _Measurement(compiled, typed, call, seed).run()


def at_other_lengths(compiled: Compiled, typed: n.BlockInstance, call: Call, seed: int = 0) -> Iterator[Failure]:
    """What does not hold of an attention by itself at other lengths, on random arguments; lengths that it cannot have,
    and arguments of which it makes no numbers, say nothing."""
    average = typed.average
    assert average is not None
    reach = max((x for w in average.wording for x in Reading(w).numbers() if x <= FAR), default=0)
    for lengths in draw.further(call.block, reach):
        given = replace(call, arguments=draw.arguments(call.block, lengths, seed))
        found = _Measurement(compiled, typed, given, seed)
        try:
            weights = found.results(probe.weights(compiled, call.block))
        except (RuntimeError, IndexError, ValueError, ZeroDivisionError):
            continue
        if not bool(weights["weights"].isfinite().all()):
            continue
        where = ", ".join(f"{name}={length}" for name, length in lengths.items())
        for failure in found.run().failures:
            if failure.claim in ("values", "hidden", "visible", "empty"):
                yield replace(failure, text=f"at {where}: {failure.text}")


class _Measurement:
    def __init__(self, compiled: Compiled, typed: n.BlockInstance, call: Call, seed: int) -> None:
        average = call.block.average
        assert average is not None
        self.compiled, self.typed, self.call, self.average = compiled, typed, call, average
        heads = (average.heads,) if average.heads is not None else ()
        self.lead: tuple[Axis, ...] = (*average.batch, *heads)
        self.rows = (*self.lead, *average.positions)
        self.draw = torch.Generator().manual_seed(seed)
        self.failures: list[Failure] = []
        state = {plain(call.module, n): x for n, x in (*call.module.named_parameters(), *call.module.named_buffers())}
        self.state = {k: _leaf(v.detach(), torch.float64) for k, v in state.items()}
        self.arguments = {k: _leaf(v, torch.float64) for k, v in call.arguments.items()}
        self.spell = Speller(average, {})

    def run(self) -> Measured:
        weights = self.results(probe.weights(self.compiled, self.call.block))
        visible = self.visible()
        self.shown(visible)
        found = {k: v for k, v in weights.items() if k.endswith("_source")}
        W = weights["weights"]
        expected = self.weighted(W, weights["message"])
        empty = ~visible.flatten(len(self.rows)).any(-1)
        values, gradients, single = self.kernel(expected, found, W.detach(), visible)
        claim = claimed(self.average)
        measured = self.weights(W.detach(), visible, claim)
        self.training(visible)
        return Measured(
            values=values,
            gradients=gradients,
            float32=single,
            claimed=claim,
            pairs=visible.numel(),
            hidden=int((~visible).sum()),
            rows=empty.numel(),
            empty=int(empty.sum()),
            notes=tuple(self.notes()),
            failures=tuple(self.failures),
            **measured,
        )

    # --- running ----------------------------------------------------------------------------------------------

    def results(self, p: probe.Probe, training: bool = False, single: bool = False) -> dict[str, Any]:
        """What a probe gives for the arguments of the call."""
        with torch.device("meta"):
            module = p.module()
        state: dict[str, Any] = self.state
        arguments: list[Any] = [self.arguments[name] for name, _ in self.call.block.parameters]
        if single:
            state = {k: _leaf(v.detach(), torch.float32) for k, v in state.items()}
            arguments = [_leaf(v, torch.float32) for v in arguments]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = torch.func.functional_call(module.train(training), state, tuple(arguments))
        found = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        return dict(zip(p.results, found, strict=True))

    def weighted(self, W: Tensor, message: Tensor) -> Tensor:
        """The sum over j of W times the message: [batch, head, positions, feature]."""
        rank = W.dim()
        message = message.reshape((1,) * (rank + 1 - message.dim()) + message.shape)
        kept = [*range(len(self.rows)), rank]
        found: Tensor = torch.einsum(W, [*range(rank)], message, [*range(rank + 1)], kept)
        return found

    # --- output equals W times values ---------------------------------------------------------------------------

    def kernel(
        self, expected: Tensor, sources: Named, W: Tensor, visible: Tensor
    ) -> tuple[float | None, float | None, float | None]:
        """The kernel's average against W times values: differences of values, of gradients, of values in float32."""
        p = probe.heads(self.compiled, self.call.block)
        empty = ~visible.flatten(len(self.rows)).any(-1)
        try:
            found = self.results(p)
            y = found.pop("y")
            if y.shape != expected.shape:
                raise RuntimeError(f"y has the shape {tuple(y.shape)}, not {tuple(expected.shape)}")
            cotangent = torch.randn(expected.shape, generator=self.draw, dtype=torch.float64)
            rows, nothing = cotangent.masked_fill(empty[..., None], 0.0), cotangent.masked_fill(~empty[..., None], 0.0)
            got = self.gradients(y, found, rows)
            at_empty = self.gradients(y, found, nothing) if bool(empty.any()) else {}
        except Exception as error:  # whatever a kernel does wrong
            self.fail(
                "values", f"the kernel does not run: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
            )
            return None, None, None
        wanted = self.gradients(expected, sources, rows)
        self.empty_rows(y.detach(), at_empty, empty)
        # rows that see nothing have been looked at
        y, expected = (x.detach().masked_fill(empty[..., None], 0.0) for x in (y, expected))
        values = self.compare("values", {"y": y}, {"y": expected}, VALUES, lambda at: self.row(p, at, W, visible))
        gradients = self.compare("gradients", got, wanted, GRADIENTS) if wanted else None
        single = self.results(p, single=True)["y"].detach().double().masked_fill(empty[..., None], 0.0)
        return values, gradients, _worst(single, expected, _scale([expected]))[0]

    def gradients(self, y: Tensor, sources: Named, cotangent: Tensor) -> Named:
        """The gradient of a random projection of y for each source, argument and learned tensor."""
        named = {k.removesuffix("_source"): v for k, v in sources.items()}
        named |= {f"the argument {k}": v for k, v in self.arguments.items() if isinstance(v, Tensor)} | self.state
        named = {k: v for k, v in named.items() if v.requires_grad}
        if not y.requires_grad:
            return {}
        found = torch.autograd.grad((y * cotangent).sum(), list(named.values()), retain_graph=True, allow_unused=True)
        return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(named.items(), found, strict=True)}

    def row(self, p: probe.Probe, at: Sequence[int], W: Tensor, visible: Tensor) -> str:
        """The weights that a kernel really uses for one row: the gradient of its average for the values."""
        message = n.plain(self.average.message)
        if not (isinstance(message, n.Local) and message.name == "v"):
            return ""
        found = self.results(p)
        source = found["value_source"]
        if not source.requires_grad:
            return ""
        (slope,) = torch.autograd.grad(found["y"][tuple(at)], source, allow_unused=True)
        if slope is None:
            return ""
        lead = [
            k for k, axis in zip(at, self.lead, strict=False) if axis in self.average.value.axes or axis.name == "head"
        ]
        used = self.one_side(self.average, "v", {"value_source": slope})[tuple(lead)].select(-1, at[-1])
        row = tuple(at[:-1])
        hidden = used[~visible[row]].abs().sum().item()
        text = f"; the weights of this row sum to {used.sum().item():.6g} there, W's to {W[row].sum().item():.6g}"
        return text + (f", {hidden:.3g} of them are on hidden keys" if hidden else "")

    def compare(
        self,
        claim: str,
        got: Named,
        wanted: Named,
        tolerance: float,
        more: Callable[[tuple[int, ...]], str] = lambda at: "",
    ) -> float:
        """The largest difference, as part of the largest number; beyond the tolerance the claim fails."""
        scale = _scale(wanted.values())
        worst = {k: _worst(got[k] if k in got else torch.zeros_like(v), v, scale) for k, v in wanted.items()}
        name, (difference, at) = max(worst.items(), key=lambda x: x[1][0])
        if not difference <= tolerance:
            mine = got[name][at].item() if name in got else 0.0
            where = self.entry(at, "feature") if claim == "values" else f"[{', '.join(map(str, at))}]"
            what = f"y{where}" if claim == "values" else f"the gradient of {name}{where}"
            text = f"{what} is {mine:.6g}, that of W times values is {wanted[name][at].item():.6g}"
            self.fail(claim, f"{text}: off by {_shown(difference)} of the largest, {tolerance:g} is allowed{more(at)}")
        return difference

    def empty_rows(self, y: Tensor, gradients: Named, empty: Tensor) -> None:
        """A query that sees nothing gives zeros, and zero gradients."""
        wrong = empty[..., None] & ~(y.abs() <= VALUES)
        if bool(wrong.any()):
            at = tuple(wrong.nonzero()[0].tolist())
            count = int(wrong.any(-1).sum())
            text = f"y{self.entry(at, 'feature')} is {y[at].item():.6g}, but this query sees nothing"
            self.fail("empty", f"{text} ({count} of {int(empty.sum())} empty rows are not zero)")
        for name, g in gradients.items():
            if not bool((g.abs() <= GRADIENTS).all()):
                self.fail("empty", f"the gradient of {name} is {_largest(g):.6g} for queries that see nothing")
                break

    # --- what W is ------------------------------------------------------------------------------------------------

    def visible(self) -> Tensor:
        """Who sees whom, from the condition itself, over [batch, head, positions, averaged axes]."""
        average = self.typed.average
        assert average is not None
        readings = [Reading(x) for x in average.wording]
        outside = lookups(v for reading in readings for v in reading.data())
        inner = {id(v) for v in outside if isinstance(v, n.Local) and v.name in ("q", "k", "v")}
        asked = [v for v in outside if id(v) not in inner]
        with torch.no_grad():
            found = self.results(probe.values(self.compiled, self.typed, asked))
        lengths = bind(self.call.block.parameters, self.arguments)
        relations = {
            name: self.arguments[name] for name, kind in self.typed.parameters if isinstance(kind, RelationType)
        }
        pairs = Pairs(lengths, relations, {})
        known: dict[int, Tensor] = {}
        for k, v in enumerate(asked):
            value = found[f"wanted_{k}"]
            if value is None:  # a condition that was left out
                value = torch.ones([pairs.length(a.size) for a in v.axes], dtype=torch.bool)
            known[id(v)] = value.detach() if isinstance(value, Tensor) else torch.tensor(value)
        for v in outside:
            if id(v) in inner and isinstance(v, n.Local):
                known[id(v)] = self.one_side(average, v.name, found)
        pairs = Pairs(lengths, relations, known)
        heads = (average.heads,) if average.heads is not None else ()
        axes = (*average.batch, *heads, *average.positions, *average.over)
        every = torch.ones([pairs.length(a.size) for a in axes], dtype=torch.bool)
        return reduce(operator.and_, (reading.table(pairs, axes) for reading in readings), every)

    def shown(self, visible: Tensor) -> None:
        """The reference hides nothing that the condition lets a query see, whatever the weights are."""
        if self.average.visible is None and bool(visible.all()):
            return
        found = self.results(probe.condition(self.compiled, self.call.block))["weights"] != 0
        wrong = visible & ~found
        if bool(wrong.any()):
            at = tuple(wrong.nonzero()[0].tolist())
            text = f"the key of W{self.entry(at)} is visible, but W leaves it out"
            self.fail("visible", f"{text} ({int(wrong.sum())} of {int(visible.sum())} visible pairs are left out)")

    @staticmethod
    def one_side(average: n.Average, name: str, found: Mapping[str, Any]) -> Tensor:
        source, value, features, moved = {
            "q": ("query_source", average.query, average.query_features, average.positions),
            "k": ("key_source", average.key, average.key_features, average.over),
            "v": ("value_source", average.value, average.value_features, average.over),
        }[name]
        assert value is not None
        heads = average.heads.size.integer if average.heads is not None else None
        own = average.key_heads.integer if name != "q" and average.key_heads is not None else heads
        roles = Roles(features, heads, own or 1)
        return heads_of(found[source].detach(), value.axes, average.batch, [a.on("") for a in moved], roles)

    def weights(self, W: Tensor, visible: Tensor, claim: Claimed) -> dict[str, float | None]:
        """Measure W against what is claimed: its least and largest entry and row."""
        dims = len(self.rows)
        if bool((W[~visible] != 0).any()):
            wrong = ~visible & (W != 0)
            at = tuple(wrong.nonzero()[0].tolist())
            text = f"W{self.entry(at)} is {W[at].item():.6g}, but this key is hidden"
            self.fail("hidden", f"{text} ({int(wrong.sum())} of {int((~visible).sum())} hidden weights are not zero)")
        flat, seen = W.flatten(dims), visible.flatten(dims)
        empty = ~seen.any(-1)
        shown, sums = W[visible], flat.sum(-1)
        if not len(shown):
            return dict.fromkeys(("low", "high", "row_low", "row_high"))
        low, high = shown.min().item(), shown.max().item()
        if not bool(shown.isfinite().all()):
            self.fail("weights", "W is not finite")
        for bound, worst, word in ((claim.low, -low, "least"), (claim.high, high, "largest")):
            limit = None if bound is None else -bound if word == "least" else bound
            if limit is not None and worst > limit + VALUES:
                number = low if word == "least" else high
                at = tuple(((number == W) & visible).nonzero()[0].tolist())
                text = f"W is {claim.kind} ({claim.why}), but its {word} entry, W{self.entry(at)}, is {number:.6g}"
                self.fail("weights", text)
        rows = ~empty & ((flat != 0).any(-1) if claim.zeros else torch.ones_like(empty))
        off = torch.where(rows, (sums - 1).abs(), 0.0)
        if claim.sums and not bool((off <= VALUES).all()):
            at = _at(off.nan_to_num(torch.inf))
            text = f"rows of W sum to 1 ({claim.why}), but that of W{self.entry(at)} sums to {sums[at].item():.6g}"
            self.fail("weights", f"{text}: off by {_shown(off[at].item())}, {VALUES:g} is allowed")
        rows = sums[~empty]
        return {"low": low, "high": high, "row_low": rows.min().item(), "row_high": rows.max().item()}

    def training(self, visible: Tensor) -> None:
        """A choice that is drawn is one key, while training too."""
        if not NORMALIZERS[self.average.normalize].draws or self.average.dropout:
            return
        with torch.no_grad():
            W = self.results(probe.weights(self.compiled, self.call.block), training=True)["weights"]
        dims = len(self.rows)
        ordered = W.flatten(dims).sort(-1, descending=True).values
        wrong = (ordered[..., 1:].abs() > VALUES).any(-1) | ((ordered[..., 0] - 1).abs() > VALUES)
        wrong &= visible.flatten(dims).any(-1)
        if bool(wrong.any()):
            at = tuple(wrong.nonzero()[0].tolist())
            self.fail("weights", f"while training W chooses one key, but the row of W{self.entry(at)} is another")

    # --- words ----------------------------------------------------------------------------------------------------

    def notes(self) -> list[str]:
        average, found = self.average, []
        if average.dropout:
            found.append(f"dropout {average.dropout:g} of weights is off, as in evaluation")
        message = n.plain(average.message)
        if not (isinstance(message, n.Local) and message.name == "v"):
            of_pairs = ", one for each pair" if "i" in sides(average.message) else ""
            found.append(f"W times the message {self.spell.text(average.message)}{of_pairs}")
        if NORMALIZERS[average.normalize].draws:
            found.append("the largest score is chosen, as in evaluation; while training one key is drawn")
        if average.key_heads is not None:
            found.append(f"{average.key_heads} key heads")
        return found

    def entry(self, at: Sequence[int], last: str = "") -> str:
        """`[b=0, head=1, i=2, j=3]`, of W; with `last` what comes after the axes of a row is called that."""
        axes = self.rows if last else (*self.rows, *self.average.over)
        names = [*(self.spell.name(a) for a in axes), *([last] if last else [])]
        return f"[{', '.join(f'{name}={k}' for name, k in zip(names, at, strict=False))}]"

    def fail(self, claim: str, text: str) -> None:
        self.failures.append(Failure(claim, text))


def _leaf(value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.detach().to(dtype).clone().requires_grad_()


def _scale(tensors: Any) -> float:
    """The largest number in some tensors; 1 where all are zero or there is none."""
    return max((_largest(x) for x in tensors), default=0.0) or 1.0


def _largest(x: Tensor) -> float:
    found = x.abs().max().item() if x.numel() else 0.0
    return float(found) if found == found else float("nan")


def _worst(got: Tensor, wanted: Tensor, scale: float) -> tuple[float, tuple[int, ...]]:
    """The largest difference, as part of `scale`, and where it is; infinite where something is not a number."""
    if not wanted.numel():
        return 0.0, ()
    difference = (got - wanted).abs().nan_to_num(torch.inf, torch.inf)
    at = _at(difference)
    return difference[at].item() / scale, at


def _at(x: Tensor) -> tuple[int, ...]:
    """Where the largest entry is."""
    return tuple(int(k) for k in torch.unravel_index(x.argmax(), x.shape))


def _shown(number: float) -> str:
    return f"{number:.2g}" if number != float("inf") else "more than any number"
