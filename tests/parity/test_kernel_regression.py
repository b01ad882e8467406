"""Nadaraya-Watson equals loops over its formula, values and gradients."""

import pytest
import torch

import towerdsl

M, N = 4, 6


def nadaraya_watson(query, key, value, keep, h):
    """sum over j of K((x - x_j) / h) y_j, over the sum of K: the density of a Gaussian as K."""
    rows = []
    for x in query:
        above, below = torch.zeros_like(value[0]), 0.0
        for x_j, y_j, kept in zip(key, value, keep, strict=True):
            if kept:
                kernel = torch.ones(())
                for c in range(len(x)):
                    u = (x[c] - x_j[c]) / h[c]
                    kernel = kernel * torch.exp(-u * u / 2) / (2 * torch.pi) ** 0.5
                above, below = above + kernel * y_j, below + kernel
        rows.append(above / below)
    return torch.stack(rows)


def draw(d, width):
    torch.manual_seed(0)
    shapes = ((M, d), (N, d), (N, width))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
@pytest.mark.parametrize("learned", [False, True], ids=["given", "learned"])
@pytest.mark.parametrize(("d", "width"), [(1, 1), (3, 2)], ids=["line", "space"])
def test_kernel_regression(d, width, learned, padded):
    ours = towerdsl.compile("kernel_regression", d=d, width=width, bandwidth=0.8, learned=learned)().double()
    params = list(ours.parameters())
    assert len(params) == learned
    keep = torch.tensor([True, True, False, True, False, True]) if padded else torch.ones(N, dtype=torch.bool)
    if learned:
        assert torch.equal(params[0], torch.full((d,), 0.8).double())
        torch.nn.init.uniform_(params[0], 0.5, 2.0)
    given, other = draw(d, width), draw(d, width)
    h = params[0].detach().clone().requires_grad_() if learned else torch.full((d,), 0.8, dtype=torch.float64)
    mine = ours(*given, keep=keep) if padded else ours(*given)
    loops = nadaraya_watson(*other, keep, h)
    torch.testing.assert_close(mine, loops, rtol=0, atol=1e-10)
    direction = torch.randn_like(loops)
    mine.backward(direction)
    loops.backward(direction)
    pairs = [*zip(given, other, strict=True), *((p, h) for p in params)]
    for a, b in pairs:
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10)


def test_a_narrow_kernel_far_from_everything():
    """exp(-u * u / 2) underflows for every key there; the average is the nearest value still."""
    ours = towerdsl.compile("kernel_regression", bandwidth=0.01)()
    key = torch.tensor([[0.0], [1.0], [2.0]])
    result = ours(torch.tensor([[100.0]]), key, torch.tensor([[5.0], [6.0], [7.0]]))
    torch.testing.assert_close(result, torch.tensor([[7.0]]))
