"""The Transformer equals torch.nn.Transformer beside a tied embedding, values and gradients."""

import math

import pytest
import torch
from torch import nn

import towerdsl

from . import equal

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")
SIZES = {"d": 32, "ff": 48, "heads": 4, "depth": 2, "vocab": 40}


def angles(length: int, d: int) -> torch.Tensor:
    """The positions of section 3.5, entry by entry."""
    rows = [
        [math.sin(p / 10000 ** (f / d)) if f % 2 == 0 else math.cos(p / 10000 ** ((f - 1) / d)) for f in range(d)]
        for p in range(length)
    ]
    return torch.tensor(rows, dtype=torch.float64)


class Peer(nn.Module):
    """torch.nn.Transformer with what it leaves to its user: scaled and tied words, positions, masks."""

    def __init__(self, d=32, ff=48, heads=4, depth=2, vocab=40, norm_first=False, final_norm=True):
        super().__init__()
        self.words = nn.Embedding(vocab, d)
        self.transformer = nn.Transformer(d, heads, depth, depth, ff, batch_first=True, norm_first=norm_first)
        if not final_norm:
            self.transformer.encoder.norm = self.transformer.decoder.norm = None

    def placed(self, ids):
        x = self.words(ids)
        return x * math.sqrt(x.shape[-1]) + angles(*x.shape[1:]).to(x.dtype)

    def forward(self, source, target, source_keep, target_keep):
        later = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        y = self.transformer(
            self.placed(source),
            self.placed(target),
            tgt_mask=later,
            src_key_padding_mask=~source_keep,
            memory_key_padding_mask=~source_keep,
            tgt_key_padding_mask=~target_keep,
        )
        return y @ self.words.weight.T


@pytest.fixture
def inputs():
    """Three pairs of sequences of different lengths."""
    draw = torch.Generator().manual_seed(3)
    return {
        "source": torch.randint(0, 40, (3, 9), generator=draw),
        "target": torch.randint(0, 40, (3, 7), generator=draw),
        "source_keep": torch.arange(9) < torch.tensor([[9], [5], [1]]),
        "target_keep": torch.arange(7) < torch.tensor([[4], [7], [1]]),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("final_norm", [False, True], ids=["plain", "final_norm"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])
def test_torch(norm_first, final_norm, dtype, inputs):
    norms = {"norm_first": norm_first, "final_norm": final_norm}
    ours = towerdsl.compile("transformer", **SIZES, **norms)().to(dtype).eval()
    theirs = equal.draw(Peer(**norms), std=0.2).to(dtype).eval()
    equal.assert_equals_peer(ours, theirs, "torch", inputs, 1e-5 if dtype == torch.float32 else 1e-10)


def test_masks_may_be_left_out(inputs):
    ours = equal.draw(towerdsl.compile("transformer", **SIZES)()).eval()
    everything = {name: torch.ones_like(x) if name.endswith("keep") else x for name, x in inputs.items()}
    torch.testing.assert_close(ours(inputs["source"], inputs["target"]), ours(**everything))


def test_what_is_written_depends_on_nothing_later(inputs):
    ours = equal.draw(towerdsl.compile("transformer", **SIZES)()).eval()
    whole = ours(**inputs)
    inputs |= {name: inputs[name][:, :3] for name in ("target", "target_keep")}
    torch.testing.assert_close(ours(**inputs), whole[:, :3])


@pytest.mark.parametrize("norms", [{}, {"norm_first": True}, {"final_norm": True}], ids=["post", "pre", "final_norm"])
def test_the_base_model_of_the_paper(norms):
    """Names and shapes of its 63 million parameters, without memory for them. Post-norm has no final norms there."""
    final = norms.get("final_norm", norms.get("norm_first", False))
    first = norms.get("norm_first", False)
    equal.assert_published_size("transformer", "torch", lambda: Peer(512, 2048, 8, 6, 37000, first, final), **norms)
