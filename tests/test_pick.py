"""`x[n=end]`: positions that are tensors, compared with loops."""

import pytest
import torch

import towerdsl
from towerdsl.diagnostics import TowerError

SPEC = """
tower: picks
inputs:
  x: float[b, k, n, 4]
  end: int[b]
  places: int[m, b]
  lone: int[m]
flow:
  - best = argmax(x, n)
outputs:
  end: x[n=end]
  places: x[n=places]
  lone: x[n=lone]
  best: x[n=best]
  both: x[n=end, k=0]
"""


@pytest.fixture(scope="module")
def given():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 4, generator=generator)
    end, places, lone = torch.tensor([1, 9]), torch.tensor([[0, 1], [-3, 4], [2, 2]]), torch.tensor([4, 0])
    return x, end, places[:2], lone


def test_entries(given):
    x, end, places, lone = given
    found = towerdsl.compile(SPEC)()(*given)
    assert found.end.shape == (2, 3, 4) and found.places.shape == (2, 2, 3, 4) and found.lone.shape == (2, 2, 3, 4)
    for b in range(2):
        assert torch.equal(found.end[b], x[b, :, min(end[b], 4)])
        assert torch.equal(found.both[b], x[b, 0, min(end[b], 4)])
        for m in range(2):
            assert torch.equal(found.places[m, b], x[b, :, max(places[m, b], 0)])
            assert torch.equal(found.lone[m, b], x[b, :, lone[m]])
    assert torch.equal(found.best, x.amax(2))


def test_gradients_go_to_what_was_read(given):
    x = given[0].clone().requires_grad_()
    towerdsl.compile(SPEC)()(x, *given[1:]).end.sum().backward()
    expected = torch.zeros_like(x)
    expected[0, :, 1] = expected[1, :, 4] = 1
    assert torch.equal(x.grad, expected)


#: Parts whose ends are computed from the length: how long they are, None where there is nothing in them.
PARTS = {
    "x[n=1:n]": 4,
    "x[n=:n + 1]": 5,
    "x[n=-n - 3:]": 5,
    "x[n=n - 2:]": 2,
    "x[n=n:]": None,
    "x[n=:-n]": None,
    "x[n=n + 2:]": None,
}


@pytest.mark.parametrize("part", PARTS)
def test_parts_end_where_the_axis_ends(part):
    text = f"tower: part\ninputs: {{x: 'float[b, n, 3]'}}\nflow:\n  - y = {part}\noutputs: y + zeros([n])[n=0]\n"
    if PARTS[part] is None:
        with pytest.raises(TowerError, match="is empty"):
            towerdsl.compile(text)
        return
    x = torch.randn(2, 5, 3)
    found = towerdsl.compile(text)()(x)
    sizes = {"x[n=1:n]": x[:, 1:], "x[n=n - 2:]": x[:, 3:]}
    torch.testing.assert_close(found, sizes.get(part, x))
    assert found.shape[1] == PARTS[part]


@pytest.mark.parametrize("position", ["n", "2 * n", "-n - 1", "n + 3"])
def test_a_position_that_is_outside_of_every_length(position):
    with pytest.raises(TowerError, match="is outside axis n"):
        towerdsl.compile(f"tower: t\ninputs: {{x: 'float[b, n, 3]'}}\noutputs: x[n={position}]\n")
