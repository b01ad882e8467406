"""Numbers about attention weights: how broad a row is, how far it looks, on what; which heads are alike.

Legend: B batch, H heads, R rows of a map, K keys, E listed pairs, N heads of several maps one after the other.
What is measured of a row is [B, H, R], in the order of `AttentionMap.rows` and `AttentionMap.heads`. Entropy, distance
and divergence are of distributions: a row is divided by its sum, which changes nothing where the normalizer is a
softmax, and a row that sees nothing has none of them: nan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from towerdsl.maps.data import AttentionMap, Grid
from towerdsl.maps.places import mistake


def entropy(one: AttentionMap) -> Tensor:
    """The entropy of each row, [B, H, R], in nats: 0 where one key has it all, ln K where all keys have the same.

        -sum over j of w[i, j] * ln w[i, j]

    (Ghader and Monz 2017, arXiv:1710.03348; Clark et al. 2019, arXiv:1906.04341, section 3.3). Raises TowerError for
    weights that are negative.
    """
    return _sums(one, torch.special.entr(_distributions(one)), math.nan)


def mean_distance(one: AttentionMap, unit: float | Sequence[float] = 1.0) -> Tensor:
    """How far from its query the keys of each row are on average, [B, H, R].

        sum over j of w[i, j] * |place(j) - place(i)|

    Places are numbers along one axis, or the Euclidean distance over several; `unit` is the length of a step, of all
    axes or of each: 16 gives pixels for patches of 16 x 16, and so the attention distance of Dosovitskiy et al. 2021
    (arXiv:2010.11929), figure 7 and appendix D.7. Where the map counts patches along one axis, behind a class token,
    give `on_grid(one, (14, 14), leading=1)`. Raises TowerError where queries and keys have other numbers of axes, and
    for weights that are negative.
    """
    axes = len(one.keys.sizes)
    if len(one.queries.sizes) != axes or not axes:
        raise mistake(
            f"`{one.path}` has {len(one.queries.sizes)} axes of queries and {axes} of keys: there is no distance",
            "measure attentions from positions to positions of the same kind",
        )
    units = torch.tensor([unit] * axes if isinstance(unit, (int, float)) else list(unit), dtype=torch.float64)
    if len(units) != axes:
        raise mistake(f"{len(units)} units are given for {axes} axes", "give one number, or one for each axis")
    query, key = _places(one.queries) * units, _places(one.keys) * units
    if one.query is None or one.key is None:
        distance = torch.cdist(query[one.rows.cpu()], key, compute_mode="donot_use_mm_for_euclid_dist")
    else:
        distance = (query[one.query.cpu()] - key[one.key.cpu()]).norm(dim=-1)
    return _sums(one, _distributions(one) * distance.to(one.weights), math.nan)


def mass_on(one: AttentionMap, keys: Tensor | Sequence[int]) -> Tensor:
    """The sum of the weights of each row on a set of keys, [B, H, R].

    `keys` are numbers, the same in every batch, or a bool tensor [K] or [B, K]: `mass_on(one, ids == separator)` is
    what Clark et al. 2019 (arXiv:1906.04341, section 3.2) plot. Raises TowerError for keys that are not there.
    """
    chosen = _chosen(keys, one.keys.count, len(one.weights), "keys").to(one.weights)  # [1 or B, K]
    listed = chosen[:, None, None, :] if one.key is None else chosen[:, one.key][:, None]
    return _sums(one, one.weights * listed)


def mass_at(one: AttentionMap, offset: int | Sequence[int]) -> Tensor:
    """The weight of each row on the key that is at an offset from the query, [B, H, R]; nan where there is none.

        w[i, i + offset]

    0 is the same position, -1 the one before, 1 the one behind (Clark et al. 2019, arXiv:1906.04341, section 3.1); on a
    grid an offset is a step along each axis. Raises TowerError where queries and keys have other numbers of axes.
    """
    steps = (offset,) if isinstance(offset, int) else tuple(offset)
    if not len(one.queries.sizes) == len(one.keys.sizes) == len(steps):
        raise mistake(
            f"`{one.path}` has {len(one.queries.sizes)} axes of queries and {len(one.keys.sizes)} of keys, "
            f"the offset has {len(steps)}",
            "give one step for each axis",
        )
    places = _places(one.queries)[one.rows.cpu()].long() + torch.tensor(steps)  # [R, axes]
    sizes = torch.tensor(one.keys.sizes)
    inside = ((places >= 0) & (places < sizes)).all(-1)
    strides = torch.tensor([math.prod(one.keys.sizes[k + 1 :]) for k in range(len(steps))])
    target = (places * strides).sum(-1).where(inside, 0).to(one.weights.device)
    if one.query is None or one.key is None:
        found = one.weights.gather(-1, target.expand(*one.weights.shape[:2], -1)[..., None])[..., 0]
    else:
        wanted = target.new_full((one.queries.count,), -1)
        wanted[one.rows] = target
        found = _sums(one, one.weights * (wanted[one.query] == one.key))
    return found.where(inside.to(found.device), math.nan)


def head_mean(one: AttentionMap, values: Tensor, queries: Tensor | Sequence[int] | None = None) -> Tensor:
    """The mean of what was measured over batches and rows, [B, H, R] --> [H]; nan counts for nothing.

    `queries` are those that count, numbers or a bool tensor [Q] or [B, Q]: `keep`, where texts have padding. Raises
    TowerError for queries that are not there.
    """
    if queries is not None:
        counted = _chosen(queries, one.queries.count, len(one.weights), "queries").to(values.device)
        values = values.where(counted[:, None, one.rows], math.nan)
    return values.movedim(1, 0).flatten(1).nanmean(1)


@dataclass(frozen=True)
class Head:
    """What one head of a map does, on average over batches and rows."""

    path: str
    call: int
    head: int
    previous: float  # mass on the position before
    same: float
    next: float
    separator: float  # mass on the separators; nan where none are given
    entropy: float  # nats
    distance: float  # positions
    kinds: tuple[str, ...]  # those of "previous", "same", "next", "separator" whose mass is above the threshold


KINDS = ("previous", "same", "next", "separator")


def head_table(
    maps: AttentionMap | Iterable[AttentionMap],
    separators: Tensor | Sequence[int] | None = None,
    queries: Tensor | Sequence[int] | None = None,
    threshold: float = 0.5,
) -> list[Head]:
    """Which heads look at the previous, the same or the next token, or at separators: one row for each head.

    A head is of a kind if its mean mass there is more than `threshold`; that of Clark et al. 2019 (arXiv:1906.04341,
    section 3.1) is one half. `separators` are as for `mass_on`, `queries` as for `head_mean`. Maps have one axis of
    positions. Raises TowerError otherwise.
    """
    found = []
    for one in [maps] if isinstance(maps, AttentionMap) else maps:
        measured = {name: mass_at(one, offset) for name, offset in (("previous", -1), ("same", 0), ("next", 1))}
        missing = torch.full_like(measured["same"], math.nan)
        measured["separator"] = missing if separators is None else mass_on(one, separators)
        measured |= {"entropy": entropy(one), "distance": mean_distance(one)}
        means = {name: head_mean(one, values, queries).tolist() for name, values in measured.items()}
        for place, head in enumerate(one.heads or (0,)):
            numbers = {name: values[place] for name, values in means.items()}
            kinds = tuple(name for name in KINDS if numbers[name] > threshold)
            found.append(Head(one.path, one.call, head, kinds=kinds, **numbers))
    return found


def head_divergence(
    maps: AttentionMap | Iterable[AttentionMap], queries: Tensor | Sequence[int] | None = None
) -> Tensor:
    """How different heads are: the Jensen-Shannon divergence of each two, [N, N], in nats, 0 to ln 2.

        JS(p, q) = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2

    The mean over batches and rows; Clark et al. 2019 (arXiv:1906.04341, section 6) take the sum over all tokens. Heads
    are those of the first map, then those of the next. `queries` as for `head_mean`. Raises TowerError for maps of
    different positions or rows, and for weights that are negative.
    """
    several = [maps] if isinstance(maps, AttentionMap) else list(maps)
    if not several:
        raise mistake("there are no maps", "probe a model first, and choose some of its attentions")
    first = several[0]
    for one in several[1:]:
        if not _alike(first, one):
            raise mistake(
                f"`{first.path}` and `{one.path}` have different positions or rows: heads are compared row by row",
                "choose attentions over the same positions, probed with the same rows",
            )
    every = torch.cat([_distributions(one) for one in several], 1)  # [B, N, R, K] or [B, N, E]
    alone = _sums(first, torch.special.entr(every), math.nan)  # [B, N, R]
    rows = []
    for k in range(every.shape[1]):
        both = _sums(first, torch.special.entr((every + every[:, k : k + 1]) / 2), math.nan)
        rows.append(head_mean(first, (both - (alone + alone[:, k : k + 1]) / 2).clamp(min=0), queries))
    return torch.stack(rows)


def on_grid(one: AttentionMap, size: tuple[int, int], leading: int = 1) -> AttentionMap:
    """A map over tokens and then patches, as one over the grid of patches: tokens in front are left out.

    `size` is (h, w), patches are counted row by row; `leading` counts the class token and registers. Both sides are
    cut in this way; rows of tokens in front go. Raises TowerError where a side has another number of positions.
    """
    grid = Grid(("h", "w"), size)
    for side, found in (("queries", one.queries.count), ("keys", one.keys.count)):
        if found != leading + grid.count:
            raise mistake(
                f"`{one.path}` has {found} {side}, not {leading} and a grid of {size[0]} x {size[1]}",
                "give the (h, w) of the patches, and how many tokens stand in front of them",
            )
    dense, patches = one.dense(), (one.rows >= leading)
    gradient = None if one.gradient is None else replace(one, weights=one.gradient).dense()[:, :, patches, leading:]
    return replace(
        one,
        queries=grid,
        keys=grid,
        rows=one.rows[patches] - leading,
        weights=dense[:, :, patches, leading:],
        query=None,
        key=None,
        gradient=gradient,
    )


def class_maps(one: AttentionMap, size: tuple[int, int], leading: int = 1, query: int = 0) -> Tensor:
    """What the class token sees of a picture, head by head, [B, H, h, w]: its row without the tokens in front.

    `size` is (h, w), `leading` counts the class token and registers, `query` is the row. Caron et al. 2021
    (arXiv:2104.14294, section 4.2.2 and figure 4) show those of the last layer, as they are and with
    `mass_threshold(found, 0.6, dims=2)`. Raises TowerError where keys are other ones, or the row is not in the map.
    """
    if one.keys.count != leading + math.prod(size):
        raise mistake(
            f"`{one.path}` has {one.keys.count} keys, not {leading} and a grid of {size[0]} x {size[1]}",
            "give the (h, w) of the patches, and how many tokens stand in front of them",
        )
    at = (one.rows == query).nonzero().flatten()
    if not len(at):
        raise mistake(f"the map of `{one.path}` has no row of query {query}", f"probe the model with row {query}")
    return one.dense()[:, :, int(at[0]), leading:].reshape(*one.weights.shape[:2], *size)


def mass_threshold(weights: Tensor, mass: float = 0.6, dims: int = 1) -> Tensor:
    """The smallest set of the largest weights that holds a part of their sum: true in it, shaped like `weights`.

    A set is along the last `dims` dims. Of equal weights those in front are taken. This is the mask of Caron et
    al. 2021 (arXiv:2104.14294, figure 4), who keep 60 % of the mass. Raises TowerError for a part outside 0 .. 1.
    """
    if not 0 <= mass <= 1:
        raise mistake(f"a part of the mass is from 0 to 1, not {mass}", "0.6 keeps 60 %")
    flat = weights.flatten(-dims)
    ordered, place = torch.sort(flat.double(), stable=True, descending=True)
    held = ordered.cumsum(-1)
    kept = held - ordered < mass * held[..., -1:]  # the larger ones do not hold enough
    return torch.zeros_like(kept).scatter(-1, place, kept).reshape(weights.shape)


# --- parts -----------------------------------------------------------------------------------------------------


def _sums(one: AttentionMap, values: Tensor, empty: float = 0.0) -> Tensor:
    """The sum over each row of what its pairs have, [..., R, K] or [..., E] --> [..., R]; `empty` is that of none."""
    if one.query is None:
        return values.sum(-1)
    found = values.new_zeros(*values.shape[:-1], one.queries.count).index_add(-1, one.query, values)
    pairs = one.query.bincount(minlength=one.queries.count)
    return found.where(pairs > 0, empty)[..., one.rows]


def _distributions(one: AttentionMap) -> Tensor:
    """The weights, each row divided by its sum; nan in a row that sees nothing."""
    if bool((one.weights < 0).any()):
        raise mistake(
            f"`{one.path}` has negative weights (its normalizer is {one.normalize}): its rows are no distributions",
            "measure its masses instead: `mass_on`, `mass_at`",
        )
    if one.query is None:
        return one.weights / one.weights.sum(-1, keepdim=True)
    totals = one.weights.new_zeros(*one.weights.shape[:-1], one.queries.count)
    totals = totals.index_add(-1, one.query, one.weights)
    return one.weights / totals[..., one.query]


def _places(grid: Grid) -> Tensor:
    """The coordinates of every position, [count, axes]."""
    axes = [torch.arange(size, dtype=torch.float64) for size in grid.sizes]
    return torch.cartesian_prod(*axes).reshape(grid.count, len(axes)) if axes else torch.zeros(1, 0)


def _chosen(wanted: Tensor | Sequence[int], count: int, batch: int, what: str) -> Tensor:
    """Numbers, or truth values, as truth values [1 or B, count]."""
    given = torch.as_tensor(wanted)
    if given.dtype == torch.bool:
        if given.shape not in ((count,), (batch, count)):
            shape = tuple(given.shape)
            raise mistake(
                f"truth values of shape {shape} do not choose among {count} {what} in {batch} batches",
                f"give a tensor [{count}] or [{batch}, {count}], or the numbers of the {what}",
            )
        return given.reshape(-1, count)
    numbers = given.flatten().long()
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise mistake(
            f"the numbers of {what} are from {int(numbers.min())} to {int(numbers.max())}", f"there are {count}"
        )
    found = torch.zeros(1, count, dtype=torch.bool, device=given.device)
    found[:, numbers] = True
    return found


def _alike(one: AttentionMap, other: AttentionMap) -> bool:
    """Whether two maps have the same positions, rows, batches and pairs."""

    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))

    return (
        (one.queries, one.keys, len(one.weights)) == (other.queries, other.keys, len(other.weights))
        and same(one.rows, other.rows)
        and same(one.query, other.query)
        and same(one.key, other.key)
    )
