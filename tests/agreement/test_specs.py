"""Every kernel against the reference, over every spec of the library."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import towerdsl
from towerdsl.compiler import compile_spec
from towerdsl.ir.types import RelationType

from . import compare

LIBRARY = Path(towerdsl.__file__).parent.parent / "specs"
SPECS = [p for p in sorted(LIBRARY.rglob("*.yaml")) if re.search(r"^(flow|outputs):", p.read_text(), re.MULTILINE)]

#: Sizes that are overridden where a spec gives them as numbers; sizes made of them follow.
SMALL = {
    "d": 16,
    "width": 12,
    "heads": 2,
    "depth": 2,
    "vocab": 11,
    "context": 16,
    "ff": 24,
    "segments": 2,
    "classes": 5,
    "layers": 2,
    "source_words": 5,
    "target_words": 5,
    "image": 8,
    "patch": 4,
    "memory": 6,
}
#: The same for one spec, where those do not fit.
OF_SPEC: dict[str, dict[str, Any]] = {
    "bahdanau": {"n": 6, "m": 4, "l": 3, "K_x": 5, "K_y": 5},
    "bart": {"decoder_heads": 4, "decoder_ff": 20, "decoder_depth": 1},
    "clip": {"image_d": 12, "image_ff": 20, "image_heads": 3, "image_depth": 1, "features": 6},
    "danet": {"features": 64},
    "deberta": {"buckets": 6},
    "deepseek": {"experts": 4, "chosen": 2, "expert_ff": 12, "latent": 6, "plain": 6, "turning": 4, "value_size": 5},
    "detr": {"d": 8, "width": 2, "depths": [2, 1, 1, 1], "queries": 3},
    "falcon": {"heads": 4, "key_heads": 2},
    "gemma": {"key_heads": 1, "head_size": 8},
    "gpt_oss": {"key_heads": 1, "head_size": 8, "experts": 4, "chosen": 2, "expert_ff": 12, "window": 3},
    "hard_attention": {"m": 4, "n": 5},
    "llama": {"key_heads": 1},
    "mixtral": {"key_heads": 1, "experts": 4, "chosen": 2, "expert_ff": 12},
    "non_local": {"c": 6, "pool": 1},
    "dinov2": {"image": 2, "patch": 1},
    "feed_forward_only": {"image": 8, "patch": 4},
    "mlp_mixer": {"image": 8, "patch": 4},
    "sam": {"image": 10, "patch": 2, "win": 3, "depth": 8, "features": 4},
    "segformer": {"widths": [4, 6, 8, 4], "depths": [1] * 4, "heads": [1, 2, 2, 1], "reductions": [1] * 4},
    "siglip": {"image_d": 12, "image_ff": 20, "image_heads": 3, "image_depth": 1},
    "swin": {"d": 4, "heads": [2, 1, 2, 4], "depths": [2, 2, 1, 1], "image": 16, "patch": 1, "win": 3},
    "swinv2": {"d": 4, "heads": [2, 1, 2, 4], "depths": [2, 2, 1, 1], "image": 16, "patch": 1, "win": 4, "hidden": 8},
    "t5": {"head_size": 6, "decoder_depth": 1},
    "vit": {"image": 2, "patch": 1},
    "whisper": {"channels": 3, "frames": 5},
}
MOST_PARAMETERS = 200_000


def small(path: Path) -> dict[str, Any]:
    resolved = compile_spec(path).resolved
    own = {*resolved.sizes, *resolved.lists}
    return {name: n for name, n in (SMALL | OF_SPEC.get(path.stem, {})).items() if name in own}


#: Free lengths in the order of their names.
LENGTHS = {"several": (7, 5, 2, 3), "one": (1, 1, 1, 1)}


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_kernels_agree(path: Path):
    sizes = small(path)
    draw = torch.Generator().manual_seed(1)
    reference, compiled = compare.build(path, "reference", **sizes), compile_spec(path, sizes)
    params = compare.draw_params(reference, draw)
    many = sum(p.numel() for p in params.values())
    assert many < MOST_PARAMETERS, f"give {path.stem} smaller sizes here: it has {many:,} parameters"
    inputs = {name: draw_inputs(compiled, lengths, draw) for name, lengths in LENGTHS.items()}
    expected = {name: compare.run(reference, params, given) for name, given in inputs.items()}
    for name in LENGTHS:
        compare.compare(f"reference, {name}", expected[name], expected[name])
    for kernel, model in compare.others(path, **sizes):
        for name, given in inputs.items():
            compare.compare(f"{kernel}, {name}", compare.run(model, params, given), expected[name])


def draw_inputs(compiled, lengths: tuple[int, ...], draw: torch.Generator) -> compare.Named:
    """Random inputs; free lengths are taken from `lengths` in the order of their names."""
    kinds = {i.name: i.type for i in compiled.model.inputs}
    ends = {n: (k.source, k.target) if isinstance(k, RelationType) else k.axes for n, k in kinds.items()}
    free = sorted({name for axes in ends.values() for a in axes for name in a.size.free_names})
    bound = dict(zip(free, lengths, strict=False))

    def length(axis) -> int:
        return axis.size.integer or bound[axis.name]

    return {
        name: compare.draw_input(kind.dtype, [length(a) for a in ends[name]], draw, 2) for name, kind in kinds.items()
    }
