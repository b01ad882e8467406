"""Weights, small enough for a page: of each row the entries that count, as whole numbers relative to the row's largest.

A row is what one query takes in one head of one element of the batch. With scale = max over j of |w[j]|, entry j is
kept as q[j] = round(sqrt(w[j] / scale) * peak), with the sign of w[j], where `peak` is the largest number that fits
(255 or 65535; 127 or 32767 if weights are signed). Read back, w[j] = q[j]^2 * scale / peak^2 is wrong by at most
sqrt(|w[j]| * scale) / peak + scale / (4 * peak^2). The root keeps small weights apart where one key takes nearly all,
as the first token often does. What is below scale / (4 * peak^2) rounds to 0 and is left out, but for pairs that are
listed: an edge with hardly any weight is still an edge.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from towerdsl.diagnostics import Diagnostic, TowerError
from towerdsl.maps.data import AttentionMap

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """The rows of one map, in the order batch, head, row.

    `data` is base64 of a zlib stream of little-endian arrays that follow each other: scales float32 [rows],
    counts uint32 [rows], columns uint16 or uint32 [entries], values of `bits` bits [entries]. A column is the
    difference to the one before it in its row (of the first, to 0): in a window these are all 1, and cost nothing.
    """

    rows: int
    entries: int
    wide: bool  # columns are uint32
    bits: int  # of a value: 8 or 16
    signed: bool
    error: float  # the largest that a weight is wrong by because of rounding
    data: str


def largest(bits: int, signed: bool) -> int:
    """The number that stands for the largest weight of a row."""
    return int(2 ** (bits - signed) - 1)


def pack(one: AttentionMap, bits: int, top: int | None = None) -> Packed:
    """The weights of a map as numbers of 8 or 16 bits; of each row the `top` largest entries only, if that is given.

    Raises TowerError where a weight is not finite.
    """
    if not bool(one.weights.isfinite().all()):
        message = f"some weights of {one.path}, call {one.call}, are not finite"
        raise TowerError([Diagnostic("weights", message, help="look for the layer that makes the first nan or inf")])
    signed = bool((one.weights < 0).any())
    peak = largest(bits, signed)
    wide = one.keys.count > 2**16
    kind = f"<{'i' if signed else 'u'}{bits // 8}"
    parts: tuple[list[bytes], ...] = ([], [], [], [])
    error, entries = 0.0, 0
    for row, column, weight in _entries(one, top):
        scale = _scales(row, weight, len(one.rows))
        share = weight / np.maximum(scale[row], np.finfo(np.float32).tiny, dtype=np.float64)
        value = np.rint(np.copysign(np.sqrt(np.abs(share)), share) * peak).astype(np.int64)
        if not one.listed:
            kept = value != 0
            row, column, value = row[kept], column[kept], value[kept]
        count = np.bincount(row, minlength=len(one.rows))
        step = np.diff(column, prepend=0)
        first = (np.cumsum(count) - count)[count > 0]
        step[first] = column[first]
        for part, array, code in zip(
            parts, (scale, count, step, value), ("<f4", "<u4", "<u4" if wide else "<u2", kind), strict=True
        ):
            part.append(array.astype(code).tobytes())
        error = max(error, float(scale.max(initial=0.0)) * (1 / peak + 1 / (4 * peak**2)))
        entries += len(column)
    rows = one.weights.shape[0] * one.weights.shape[1] * len(one.rows)
    data = zlib.compress(b"".join(x for part in parts for x in part), 6)
    return Packed(rows, entries, wide, bits, signed, error, base64.b64encode(data).decode("ascii"))


def _entries(one: AttentionMap, top: int | None) -> Iterator[tuple[Numbers, Numbers, Floats]]:
    """For each element of the batch and each head: rows, columns and weights of the entries, sorted by row and column.

    What is 0 in a dense map is no entry. Of each row there are the `top` entries whose |weight| is largest, or all.
    """
    weights = one.weights.detach().float().cpu()
    flat = weights.flatten(0, 1)
    if one.query is None or one.key is None:
        for matrix in flat:
            if top is not None and top < matrix.shape[1]:
                best = matrix.abs().topk(top, sorted=False).indices
                matrix = torch.zeros_like(matrix).scatter_(1, best, matrix.gather(1, best))
            row, column = matrix.numpy().nonzero()
            yield row, column, matrix.numpy()[row, column]
        return
    place = np.full(one.queries.count, -1)
    place[one.rows.cpu().numpy()] = np.arange(len(one.rows))
    row, column = place[one.query.cpu().numpy()], one.key.cpu().numpy()
    order = np.lexsort((column, row))
    order = order[row[order] >= 0]
    row, column = row[order], column[order]
    for vector in flat.numpy():
        weight = vector[order]
        kept = slice(None) if top is None else _largest(row, weight, top)
        yield row[kept], column[kept], weight[kept]


def _scales(row: Numbers, weight: Floats, rows: int) -> Floats:
    """The largest |weight| of each row; 0 where a row has no entries."""
    count = np.bincount(row, minlength=rows)
    start = np.cumsum(count) - count
    found = np.zeros(rows, np.float32)
    if len(row):
        found[count > 0] = np.maximum.reduceat(np.abs(weight), start[count > 0])
    return found


def _largest(row: Numbers, weight: Floats, top: int) -> NDArray[np.bool_]:
    """Which entries, sorted by row, are among the `top` of their row whose |weight| is largest."""
    order = np.lexsort((-np.abs(weight), row))
    start = np.searchsorted(row, np.arange(int(row.max(initial=0)) + 1))
    kept = np.zeros(len(row), bool)
    kept[order] = np.arange(len(row)) - start[row] < top
    return kept
