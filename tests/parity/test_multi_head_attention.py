"""The library's attention specs equal PyTorch's own, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

import towerdsl

B, M, N, D, HEADS = 3, 5, 7, 24, 4


def query_key_value():
    torch.manual_seed(1)
    return [torch.randn(B, length, D, dtype=torch.float64, requires_grad=True) for length in (M, N, N)]


@pytest.fixture
def keep():
    """Padding of different lengths; the first key of every row is kept."""
    return torch.arange(N) < torch.tensor([[N], [4], [1]])


@pytest.fixture
def pair(tmp_path):
    """PyTorch's module, and ours with its weights, loaded from a file with PyTorch's names."""
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(D, HEADS, batch_first=True)
    torch.nn.init.normal_(theirs.in_proj_bias)
    torch.nn.init.normal_(theirs.out_proj.bias)
    file = tmp_path / "attention.pt"
    torch.save(theirs.state_dict(), file)
    ours = towerdsl.load("multi_head_attention", checkpoint=file, format="torch", d=D, heads=HEADS)
    return ours.double(), theirs.double()


@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
def test_multi_head_attention(pair, keep, padded):
    ours, theirs = pair
    sources, others = query_key_value(), query_key_value()
    mine = ours(*sources, keep=keep) if padded else ours(*sources)
    other, _ = theirs(*others, key_padding_mask=~keep if padded else None, need_weights=False)
    assert mine.shape == (B, M, D)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)

    direction = torch.randn_like(other)
    mine.backward(direction)
    other.backward(direction)
    for a, b in zip(sources, others, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-11)
    parts = (ours.attention.query, ours.attention.key, ours.attention.value)
    in_proj = torch.cat([part.weight.grad for part in parts])
    torch.testing.assert_close(in_proj, theirs.in_proj_weight.grad, rtol=0, atol=1e-11)
    torch.testing.assert_close(ours.attention.output.weight.grad, theirs.out_proj.weight.grad, rtol=0, atol=1e-11)


def test_a_query_that_sees_nothing_gives_the_bias_of_the_output(pair, keep):
    """An average over no keys is zero; PyTorch's module gives NaN there."""
    ours, _ = pair
    sources = query_key_value()
    keep[2] = False
    result = ours(*sources, keep=keep)
    torch.testing.assert_close(result[2], ours.attention.output.bias.expand(M, D))
    result.sum().backward()
    for source in sources:
        assert source.grad.isfinite().all() and not source.grad[2].any()


@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
def test_scaled_dot_product(keep, padded):
    ours = towerdsl.compile("scaled_dot_product", d=D)()
    sources, others = query_key_value(), query_key_value()
    mine = ours(*sources, keep=keep) if padded else ours(*sources)
    other = F.scaled_dot_product_attention(*others, attn_mask=keep[:, None, :] if padded else None)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    direction = torch.randn_like(other)
    mine.backward(direction)
    other.backward(direction)
    for a, b in zip(sources, others, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12)


def test_scaled_dot_product_of_a_wider_value():
    query, key, _ = query_key_value()
    value = torch.randn(B, N, 11, dtype=torch.float64)
    mine = towerdsl.compile("scaled_dot_product", d=D, width=11)()(query, key, value)
    torch.testing.assert_close(mine, F.scaled_dot_product_attention(query, key, value), rtol=0, atol=1e-12)
