"""The facts as plain data, for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from towerdsl.explain.facts import FLOAT_BYTES, Along, Explained, Found, Layer, Source, path_formula
from towerdsl.ir.size import Size
from towerdsl.kernels.work import Work


def to_data(explained: Explained) -> dict[str, Any]:
    """The facts as plain data, as the head of this file says."""

    def cost(size: Size) -> dict[str, Any]:
        return {"formula": str(size), "number": explained.number(size)}

    def axes(found: Iterable[tuple[str | None, Size]]) -> list[dict[str, Any]]:
        return [{"name": name, "size": str(size)} for name, size in found]

    def source(s: Source | None) -> dict[str, Any] | None:
        return None if s is None else {"text": s.text, "axes": axes(s.axes)}

    def attention(f: Found) -> dict[str, Any]:
        a = f.facts
        peak = explained.number(a.peak)
        return {
            "block": a.block,
            "constants": dict(a.constants),
            "at": a.at,
            "paths": list(f.paths),
            "modules": f.modules,
            "calls": f.calls if isinstance(f.calls, int) else str(f.calls),
            "let": list(a.let),
            "query": source(a.query),
            "key": source(a.key),
            "value": source(a.value),
            "batch": axes(a.batch),
            "positions": axes(a.positions),
            "over": axes(a.over),
            "heads": a.heads,
            "key_heads": a.key_heads,
            "features": {
                "key": None if a.key_size is None else str(a.key_size),
                "value": str(a.value_size),
            },
            "merge": a.merge,
            "dropout": a.dropout,
            "score": {"text": a.score, "formula": a.score_formula, "kind": a.score_kind, "found": a.score_found},
            "message": {"text": a.message, "formula": a.message_formula},
            "visible": {
                "locality": a.locality,
                "mask": a.mask,
                "everything": a.everything,
                "causal": a.causal,
                "never": a.never,
                "bands": [
                    {
                        "axis": b.axis,
                        "low": None if b.low is None else str(b.low),
                        "high": None if b.high is None else str(b.high),
                        "text": b.text,
                    }
                    for b in a.bands
                ],
                "rest": [text for text, _ in a.rest],
            },
            "normalize": {"name": a.normalize, "options": dict(a.normalize_options), "formula": a.normalize_formula},
            "output": {"text": a.output, "results": list(a.results)},
            "kernel": {"name": a.kernel, "how": a.how},
            "refused": [{"kernel": name, "reason": reason} for name, reason in a.refused],
            "able": list(a.able),
            "estimates": dict(a.estimates),
            "near": None if a.near is None else asdict(a.near),
            "parameters": a.parameters,
            "multiply_adds": {k.name: cost(getattr(a.work, k.name)) for k in fields(Work)},
            "peak": {**cost(a.peak), "bytes": None if peak is None else peak * FLOAT_BYTES},
        }

    def layer(x: Layer) -> dict[str, Any]:
        return {
            "kind": x.kind,
            "paths": list(x.paths),
            "calls": x.calls if isinstance(x.calls, int) else str(x.calls),
            "along": list(x.along),
            "mixing": cost(x.mixing),
            "whole": cost(x.whole),
            "steps": cost(x.steps),
        }

    def along(x: Along) -> dict[str, Any]:
        length = explained.number(x.size)
        return {
            "axis": x.axis,
            "size": str(x.size),
            "layers": [{"reads": str(reach), "count": count} for reach, count in x.stack.runs],
            "formula": path_formula(x),
            "number": None if length is None else x.path.moves(length),
            "exact": x.path.exact,
            "covers": x.path.covers,
            "towards": x.path.towards,
            "unknown": x.path.reason if x.path.kind in ("none", "unknown") else "",
        }

    work = explained.work
    return {
        "name": explained.name,
        "source": explained.source,
        "paper": explained.paper,
        "about": explained.about,
        "sizes": {name: str(value) if isinstance(value, Size) else value for name, value in explained.sizes},
        "choices": {name: list(choice.values) for name, choice in explained.choices.items()},
        "free": list(explained.free),
        "given": dict(explained.given),
        "inputs": [{"name": i.name, "type": str(i.type), "default": i.default} for i in explained.inputs],
        "outputs": [{"name": name, "type": kind} for name, kind in explained.outputs],
        "attentions": [attention(f) for f in explained.attentions],
        "layers": [layer(x) for x in explained.layers],
        "paths": [along(x) for x in explained.stacks],
        "total": {
            "parameters": explained.parameters,
            "buffers": explained.buffers,
            "bytes": (explained.parameters + explained.buffers) * FLOAT_BYTES,
            "multiply_adds": {**{k.name: cost(getattr(work, k.name)) for k in fields(Work)}, "all": cost(work.all)},
            "shares": [
                {
                    "paths": list(f.paths),
                    "parameters": _share(f.facts.parameters * f.modules, explained.parameters),
                    "multiply_adds": _work_share(explained, f),
                }
                for f in explained.attentions
            ],
        },
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _work_share(explained: Explained, f: Found) -> float | None:
    part, whole = explained.number(f.facts.work.all * f.calls), explained.number(explained.work.all)
    return None if part is None or whole is None else _share(part, whole)
