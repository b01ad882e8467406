"""GraphAttention: compiled by towerdsl 0.1.0 from graph_attention.yaml."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def traced() -> bool:
    """Whether `torch.jit.trace`, torch's older ONNX exporter or `make_fx` records each plain operation."""
    if torch.compiler.is_compiling():
        return False
    key = torch._C._TorchDispatchModeKey.PROXY
    return torch._C._get_tracing_state() is not None or torch._C._get_dispatch_mode(key) is not None


def plain() -> bool:
    """Whether torch has to see plain operations: it traces, torch.func is at work, or tangents go along."""
    mapped = torch._C._are_functorch_transforms_active()
    return mapped or torch.autograd.forward_ad._current_level >= 0 or traced()


def readable(x: Tensor) -> bool:
    """Whether a decision may rest on the values of a tensor: it is on a CPU and stands for no others."""
    if torch.compiler.is_compiling() or not x.is_cpu or type(x) not in (Tensor, torch.nn.Parameter):
        return False
    return not plain()


def in_dtype(model: Any, name: str, declared: str, x: Any) -> Any:
    """One input in its dtype."""
    kind = declared.partition("[")[0]
    if x is None and " = " in declared:
        return None
    if not isinstance(x, Tensor):
        help = "" if x is None else f"; give torch.as_tensor({name})"
        raise TypeError(f"`{name}` is {type(x).__name__}; it is declared {declared}{help}")
    real = x.dtype.is_floating_point
    whole = not real and not x.dtype.is_complex
    if kind == "float" and real:
        if "model's dtype" not in declared:
            return x
        return x.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype))
    if kind == "bool" and whole:
        if x.dtype != torch.bool and readable(x) and bool(((x != 0) & (x != 1)).any()):
            got = f"`{name}` has numbers from {int(x.min())} to {int(x.max())}; it is declared {declared}"
            raise ValueError(f"{got}; give a condition of them, such as {name} > 0")
        return x.to(torch.bool)
    if kind in ("int", "relation") and whole and x.dtype != torch.bool:
        return x.to(torch.long)
    as_meant = {"float": f"{name}.float()", "bool": f"a condition, such as {name} > 0"}
    got = f"`{name}` is {str(x.dtype).removeprefix('torch.')}; it is declared {declared}"
    raise TypeError(f"{got}; if that is meant, give {as_meant.get(kind, f'{name}.long()')}")


def captured() -> bool:
    """Whether torch records the operations, for other values and lengths: compiling, exporting, tracing."""
    return torch.compiler.is_compiling() or traced()


def axes_of(declared: str) -> list[str]:
    """`int[b, n], below 9` --> b, n."""
    inside = declared[declared.index("[") + 1 : declared.index("]")]
    return inside.split(", ") if inside else []


def length_of(size: str, lengths: dict[str, int]) -> Any:
    """The number that a formula of lengths is, such as `2 * n - 1`; None where one of them is not known."""
    import ast
    import operator

    operators: dict[type, Any] = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.Pow: operator.pow,
        ast.USub: operator.neg,
    }

    def number(of: Any) -> Any:
        if isinstance(of, ast.Constant):
            return of.value
        if isinstance(of, ast.Name):
            return lengths.get(of.id)
        parts = [number(x) for x in ((of.operand,) if isinstance(of, ast.UnaryOp) else (of.left, of.right))]
        return None if None in parts else operators[type(of.op)](*parts)

    return int(size) if size.isdecimal() else number(ast.parse(size, mode="eval").body)


def lengths_of(inputs: dict[str, str], found: tuple[Any, ...]) -> dict[str, int]:
    """The length of each axis that has no fixed one, by name."""
    lengths: dict[str, int] = {}
    source: dict[str, str] = {}
    later = []
    for (name, declared), x in zip(inputs.items(), found, strict=True):
        if x is None:
            continue
        axes = axes_of(declared)
        got = f"`{name}` has shape {list(x.shape)}; it is declared {declared}"
        if declared.startswith("relation"):
            if x.ndim != 2 or x.shape[0] != 2:
                raise ValueError(f"{got}; give a row of sources and a row of targets, [2, edges]")
            continue
        if x.ndim != len(axes):
            help = f"; if it is one of a batch, give {name}[None]" if x.ndim == len(axes) - 1 else ""
            raise ValueError(f"{got}, {len(axes)} axes{help}")
        for axis, length in zip(axes, x.shape, strict=True):
            size = axis.rpartition("=")[2]
            if size == "?":
                continue
            if not size.isidentifier():
                later.append((axis, size, length, got))
            elif lengths.setdefault(size, length) != length:
                raise ValueError(f"{got}; {size} is {length} here and {lengths[size]} in `{source[size]}`")
            source.setdefault(size, name)
        limit, _, most = declared.rpartition(" at most ")
        if most.isdecimal() and lengths[limit.rpartition(" ")[2]] > int(most):
            raise ValueError(f"{got}; cut it, or compile the model with more positions")
    for axis, size, length, got in later:
        expected = length_of(size, lengths)
        if expected is not None and length != expected:
            help = "give it in this size, or compile the model for another"
            raise ValueError(f"{got}; {length} is not {axis}: {help}")
    return lengths


def check_numbers(name: str, declared: str, x: Tensor, lengths: dict[str, int]) -> None:
    """Whether ids are in their table, and edges between nodes that there are."""
    if declared.startswith("relation"):
        sizes = [axis.rpartition("=")[2] for axis in axes_of(declared)]
        for side, row, size in zip(("source", "target"), x, sizes, strict=True):
            count = int(size) if size.isdecimal() else lengths.get(size)
            low, high = (int(end) for end in row.aminmax())
            if count is not None and (low < 0 or high >= count):
                got = f"`{name}` has the {side} {low if low < 0 else high}, out of bounds"
                raise IndexError(f"{got}; it is declared {declared}, and there are {count}, counted from 0")
        return
    limit = declared.partition(", below ")[2].partition(",")[0]
    if limit:
        low, high = (int(end) for end in x.aminmax())
        if low < 0 or high >= int(limit):
            got = f"`{name}` has {low if low < 0 else high}, out of bounds; it is declared {declared}"
            raise IndexError(f"{got}; are the ids of this model's vocabulary?")


def as_declared(model: Any, *given: Any) -> tuple[Any, ...]:
    """The inputs in the dtypes of `model.inputs`; an error names the one that does not fit.

    Whole numbers of any width do for int, 0 and 1 of them for bool; floats are converted where they meet
    weights. Values are only looked at on a CPU; where operations are recorded, nothing but dtypes is.
    """
    inputs: dict[str, str] = model.inputs
    found = tuple(in_dtype(model, name, inputs[name], x) for name, x in zip(inputs, given, strict=True))
    if not captured():
        lengths = lengths_of(inputs, found)
        for name, x in zip(inputs, found, strict=True):
            if x is not None and x.dtype == torch.long and x.numel() and readable(x):
                check_numbers(name, inputs[name], x, lengths)
    return found


def widened(x: Tensor) -> Tensor:
    """Halves as float32, in which sums over many keys are made; others as they are."""
    return x.float() if x.element_size() < 4 else x


def entries(values: Tensor, index_E: Tensor, dim: int = -1) -> Tensor:
    """The entries of `values` along one axis at an index for each pair: [..., K, ...] --> [..., E, ...]."""
    if dim == -1:
        return values.gather(-1, index_E.expand(*values.shape[:-1], -1))
    return widened(values).index_select(dim, index_E).to(values.dtype)  # the gradient is a sum over pairs


def itself(size: int, device: torch.device) -> Tensor:
    """The pairs `i == j`, [2, size]."""
    return torch.arange(size, device=device).expand(2, size)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def remembered(function: Callable[..., Any], *given: Any) -> Any:
    """`function(*given)`, computed once while the numbers stay the same: layers share a graph.

    They are compared with copies, as whoever holds a list, or an array with the same memory, may write to it.
    The last graph is kept, and none where numbers may not be looked at.
    """
    if not all(readable(x) for x in given if isinstance(x, Tensor)):
        return function(*given)
    known, result = getattr(function, "last", ((), None))
    if len(known) != len(given) or not all(map(_same, known, given)):
        with torch.inference_mode(False):  # they may be read in training next
            known = tuple(x.clone() if isinstance(x, Tensor) else x for x in given)
            result = function(*known)
        function.last = known, result  # type: ignore[attr-defined]
    return result


def _positions(edges: Tensor, queries: int, keys: int) -> list[Tensor]:
    """The query and the key of each edge; one that is outside is the mistake that it is for any tensor."""
    sizes = (queries, edges[1]), (keys, edges[0])
    return [torch.arange(size, device=edges.device)[index] for size, index in sizes]


class Pairs(NamedTuple):
    """Pairs of a query and one of `keys` keys, sorted by query: query q has `start[q]:start[q + 1]`."""

    query: Tensor  # [E]
    key: Tensor  # [E]
    start: Tensor  # [Q + 1]
    once: Tensor  # bool [E], false for a pair that has been listed before
    keys: int
    distinct: bool  # whether it is known that `once` is true everywhere


def row_starts(index_E: Tensor, rows: int) -> Tensor:
    """Sorted row numbers --> [rows + 1], where each row starts and the last one ends."""
    return torch.searchsorted(index_E, torch.arange(rows + 1, device=index_E.device))


def _sorted_by_query(*lists_and_sizes: Any) -> Pairs:
    *lists, queries, keys = lists_and_sizes
    query, key = _positions(torch.cat(lists, 1), queries, keys)
    place = (query * keys + key).sort().values
    once = torch.cat([place[:1] >= 0, place.diff() != 0])
    query, key = place // keys, place % keys
    return Pairs(query, key, row_starts(query, queries), once, keys, readable(place) and bool(once.all()))


def pairs_by_query(queries: int, keys: int, *lists: Tensor) -> Pairs:
    """Lists [2, edges] of (key, query) --> all of their pairs, sorted by query, then by key."""
    return remembered(_sorted_by_query, *lists, queries, keys)


def _sums(values: Tensor, query_E: Tensor, start: Tensor) -> Tensor:
    values = widened(values)
    sums = values.new_zeros(*values.shape[:-1], start.shape[0] - 1)
    return sums.scatter_add(-1, query_E.expand_as(values), values)


#: Of numbers this far apart, exp(x - the largest) is still a normal number in float32.
SPREAD = 80.0


def _subtracted(score: Tensor, query_E: Tensor, start: Tensor) -> Tensor:
    """The largest score of each pair's row, or of all rows where that serves: a softmax may subtract any."""
    if readable(score) and score.numel():
        low, high = score.aminmax()
        if high - low < SPREAD:
            return high
    starts = start.expand(*score.shape[:-1], -1)
    largest = torch.segment_reduce(score, "max", offsets=starts, axis=score.ndim - 1, unsafe=True)
    largest = largest.clamp(min=torch.finfo(score.dtype).min)  # a row that sees nothing has -inf
    return entries(largest, query_E)


class SoftmaxOfRows(torch.autograd.Function):
    """[..., E] scores --> their weights; pairs that are not visible have none."""

    @staticmethod
    def forward(score, visible, query_E, start):
        wide = widened(score)
        if visible is not None:
            wide = wide.masked_fill(~visible, float("-inf"))
        weight = (wide - _subtracted(wide.detach(), query_E, start)).exp()
        total = _sums(weight, query_E, start)
        share = total.masked_fill(total == 0, 1.0).reciprocal()  # 0 in a row that sees nothing
        return (weight * entries(share, query_E)).to(score.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output, *inputs[2:])

    @staticmethod
    def backward(ctx, grad):
        weight, query, start = ctx.saved_tensors
        wide = widened(weight) * grad
        grad = wide - weight * entries(_sums(wide, query, start), query)
        return grad.to(weight.dtype), None, None, None


def softmax_of_rows(score: Tensor, visible: Tensor, pairs: Pairs) -> Tensor:
    """exp(f) / sum of exp(f) over the visible pairs of a query."""
    shown = None if visible is pairs.once and pairs.distinct else visible
    function = SoftmaxOfRows.forward if plain() else SoftmaxOfRows.apply
    return function(score, shown, pairs.query, pairs.start)


def alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Factors of one product in one dtype: that of autocast, where float64 stays, or their widest."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    device = tensors[0].device.type
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) for x in tensors)


def sum_of_messages(weights: Tensor, messages: Tensor, pairs: Pairs) -> Tensor:
    """y[q] = sum over the pairs (q, k) of w[q, k] * messages[q, k]: [..., E], [..., E, D] --> [..., Q, D]."""
    weighted = widened(weights[..., None] * messages)
    *lead, _, width = weighted.shape
    y = weighted.new_zeros(*lead, pairs.start.shape[0] - 1, width).index_add(-2, pairs.query, weighted)
    return y.to(messages.dtype)


def _bags(weights_E: Tensor, values_KD: Tensor, index_E: Tensor, start: Tensor) -> Tensor:
    """The weighted sum of each row: what torch calls a bag of embeddings."""
    return F.embedding_bag(
        index_E, values_KD, start, mode="sum", per_sample_weights=weights_E, include_last_offset=True
    )


#: Up to so many weights, one call for all heads costs less than the calls that it saves.
FEW = 2**18


def _sorted_by_key(query_E: Tensor, key_E: Tensor, keys: int) -> tuple[Tensor, ...]:
    """The pairs sorted by key, queries and keys exchanged, and the place that each has had."""
    key_E, order = key_E.sort(stable=True)
    return key_E, query_E[order], row_starts(key_E, keys), order


class PairDot(torch.autograd.Function):
    """[Q, L, D] and [K, L, D] --> the dot product of each pair, [L, E]."""

    @staticmethod
    def forward(left_QLD, right_KLD, query_E, key_E, start):
        import warnings

        (queries, leading, _), keys, pairs = left_QLD.shape, right_KLD.shape[0], key_E.shape[0]
        # compiled it is one loop, which keeps nothing; a sparse tensor lists no more pairs than there are
        if torch.compiler.is_compiling() or left_QLD.is_meta or pairs > queries * keys:
            return (left_QLD[query_E] * right_KLD[key_E]).sum(-1).t()
        wide = torch.promote_types(left_QLD.dtype, torch.float32)
        left, right = left_QLD.detach().to(wide).transpose(0, 1), right_KLD.detach().to(wide).permute(1, 2, 0)
        with warnings.catch_warnings():  # that sparse tensors are new
            warnings.simplefilter("ignore", UserWarning)
            rows, columns = start.expand(leading, -1), key_E.expand(leading, -1)
            none, shape = left.new_zeros(columns.shape), (leading, queries, keys)
            listed = torch.sparse_csr_tensor(rows, columns, none, shape)
            return torch.sparse.sampled_addmm(listed, left, right).values().to(left_QLD.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_LE):
        left, right, query, key, start = ctx.saved_tensors
        of_left = of_right = None
        if ctx.needs_input_grad[0]:
            of_left = WeightedSum.apply(grad_LE, right, query, key, start)
        if ctx.needs_input_grad[1]:
            *turned, order = remembered(_sorted_by_key, query, key, right.shape[0])
            of_right = WeightedSum.apply(entries(grad_LE, order), left, *turned)
        return of_left, of_right, None, None, None


class WeightedSum(torch.autograd.Function):
    """[L, E] weights and [K, L, D] values --> their sums [Q, L, D], with no message of a pair in memory."""

    @staticmethod
    def forward(weights_LE, values_KLD, query_E, key_E, start):
        weights, values, leading = weights_LE.detach(), values_KLD.detach(), weights_LE.shape[0]
        if not torch.compiler.is_compiling() and weights.numel() > FEW:
            values = values.transpose(0, 1).contiguous()
            return torch.stack([_bags(weights[h], values[h], key_E, start) for h in range(leading)], 1)
        # all at once: how many there are may vary
        shift = torch.arange(leading, device=key_E.device)[:, None]
        starts = torch.cat([(start[:-1] + key_E.shape[0] * shift).flatten(), start[-1:] * leading])
        places = (key_E * leading + shift).flatten()
        y = _bags(weights.flatten(), values.flatten(0, 1), places, starts)
        return y.unflatten(0, (leading, start.shape[0] - 1)).transpose(0, 1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_QLD):
        weights, values, query, key, start = ctx.saved_tensors
        of_weights = of_values = None
        if ctx.needs_input_grad[0]:
            of_weights = PairDot.apply(grad_QLD, values, query, key, start)
        if ctx.needs_input_grad[1]:
            *turned, order = remembered(_sorted_by_key, query, key, values.shape[0])
            of_values = WeightedSum.apply(entries(weights, order), grad_QLD, *turned)
        return of_weights, of_values, None, None, None


def _by_position(vectors: Tensor, lead: torch.Size) -> Tensor:
    """[..., K, D] --> [K, L, D]: all that is read of one position lies together."""
    whole = vectors.expand(*lead, *vectors.shape[-2:]).movedim(-2, 0)
    return whole.reshape(whole.shape[0], math.prod(lead), whole.shape[-1])


def weighted_sum(weights: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
    """y[q] = sum over the pairs (q, k) of w[q, k] * values[k]: [..., E], [..., K, D] --> [..., Q, D]."""
    weights, values = alike(weights, values)
    if plain():
        return sum_of_messages(weights, entries(values, pairs.key, -2), pairs)
    lead = torch.broadcast_shapes(weights.shape[:-1], values.shape[:-2])
    weights_LE = weights.expand(*lead, -1).reshape(math.prod(lead), weights.shape[-1])
    y_QLD = WeightedSum.apply(weights_LE, _by_position(values, lead), pairs.query, pairs.key, pairs.start)
    return y_QLD.unflatten(1, lead or (1,)).movedim(0, -2) if lead else y_QLD.squeeze(1)


class Gat(nn.Module):
    """gat(x[n, f], edges, width), graph_attention.yaml:10.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of leaky_relu(dot(a_dst, q[i]) + dot(a_src, k[j]), 0.2)
        j is visible to i where edges[j, i]

    Averaged over n, heads merged by concat; kernel: edges.

    x float[n, f=5], edges relation[n, n] -> float[n, 6]
    """

    def __init__(self) -> None:
        super().__init__()
        self.a_src = nn.Parameter(torch.empty(2, 3))
        nn.init.normal_(self.a_src, std=0.02)
        self.a_dst = nn.Parameter(torch.empty(2, 3))
        nn.init.normal_(self.a_dst, std=0.02)
        self.linear = nn.Linear(5, 6, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        n = x.shape[0]
        h = self.linear(x)
        q = k = v = h.unflatten(-1, (2, 3)).transpose(0, 1)
        pairs = pairs_by_query(n, n, edges)
        score = F.leaky_relu(
            entries(torch.einsum("hd,hid->hi", self.a_dst, q), pairs.query)
            + entries(torch.einsum("hd,hjd->hj", self.a_src, k), pairs.key),
            0.2,
        )
        visible = pairs.once
        weights = softmax_of_rows(score, visible, pairs)
        return weighted_sum(weights, v, pairs).transpose(0, 1).flatten(-2)


class Last(nn.Module):
    """last(x, edges, width), graph_attention.yaml:22.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of leaky_relu(dot(a_dst, q[i]) + dot(a_src, k[j]), 0.2)
        j is visible to i where edges[j, i] or i == j

    Averaged over n, heads merged by mean; kernel: edges.

    x float[n, 6], edges relation[n, n] -> float[n, 4]
    """

    def __init__(self) -> None:
        super().__init__()
        self.a_src = nn.Parameter(torch.empty(2, 4))
        nn.init.normal_(self.a_src, std=0.02)
        self.a_dst = nn.Parameter(torch.empty(2, 4))
        nn.init.normal_(self.a_dst, std=0.02)
        self.linear = nn.Linear(6, 8, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        n = x.shape[0]
        h = self.linear(x)
        q = k = v = h.unflatten(-1, (2, 4)).transpose(0, 1)
        pairs = pairs_by_query(n, n, edges, itself(n, q.device))
        score = F.leaky_relu(
            entries(torch.einsum("hd,hid->hi", self.a_dst, q), pairs.query)
            + entries(torch.einsum("hd,hjd->hj", self.a_src, k), pairs.key),
            0.2,
        )
        visible = pairs.once
        weights = softmax_of_rows(score, visible, pairs)
        return weighted_sum(weights, v, pairs).mean(0)


class GraphAttention(nn.Module):
    """GraphAttention, compiled from graph_attention.yaml.

    Velickovic et al. 2018, arXiv:1710.10903

    Inputs:
        x: float[n, f=5]
        edges: relation[n, n]
    Output:
        x: float[n, 4]
    """

    inputs = {
        "x": "float[n, f=5], in the model's dtype",
        "edges": "relation[n, n]",
    }

    def __init__(self) -> None:
        super().__init__()
        self.gat = Gat()
        self.last = Last()

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x, edges = as_declared(self, x, edges)
        return self.last(F.elu(self.gat(x, edges)), edges)
