"""What no data goes into is made at the first call, and is the same as when it is made anew."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import towerdsl
from towerdsl.runtime.kept import KEPT_BYTES, KEPT_RESULTS, kept

TEXT = """
tower: small
sizes: {d: 8, depth: 3}
inputs: {x: "float[b, n, d]", keep: "bool[b, n]"}
blocks:
  look(x, keep):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: 2
    score: dot(rope(q, i, dk), rope(k, j, dk)) / sqrt(dk)
    mask: keep[j] and i - j < 4
flow:
  - x = x + outer(cos(range(n)) * ones([d]))
  - for l in depth:
      - x = x + look(x, keep)
outputs: x
"""


class Cosines(TorchFunctionMode):
    """How often `torch.cos` is called."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.cos
        return function(*args, **(kwargs or {}))


def given(n=7, dtype=torch.float32):
    torch.manual_seed(n)
    return torch.randn(2, n, 8, dtype=dtype), torch.rand(2, n) < 0.8


def made(**more):
    torch.manual_seed(0)
    return towerdsl.compile(TEXT.replace("small", more.pop("name")), **more)().eval()


def anew(model, *inputs):
    """What a model gives where torch looks at each operation: nothing is kept there."""
    with FlopCounterMode(display=False):
        return model(*inputs)


def test_layers_and_calls_share_what_is_made():
    model = made(name="shares")
    with Cosines() as cosines:
        first = model(*given())
        assert cosines.count == 2  # in the flow, and for queries and keys of all layers
        assert torch.equal(model(*given()), first)
        assert cosines.count == 2
        model(*given(9))
        assert cosines.count == 4
        assert torch.equal(anew(model, *given()), first)
        assert cosines.count == 4 + 1 + len(model.look)


def test_it_follows_the_dtype():
    model = made(name="follows")
    model(*given())
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        model.to(dtype)
        found, wanted = model(*given(dtype=dtype)), anew(copy.deepcopy(model), *given(dtype=dtype))
        assert found.dtype == dtype
        assert torch.equal(found, wanted)


def test_it_is_no_state():
    model = made(name="stateless")
    names = set(model.state_dict())
    model(*given())
    assert set(model.state_dict()) == names
    assert not list(model.buffers())


def test_what_inference_mode_made_serves_training():
    model = made(name="trained")
    with torch.inference_mode():
        model(*given())
    x, keep = given()
    model(x.requires_grad_(), keep).sum().backward()
    assert x.grad is not None and all(p.grad is not None for p in model.parameters())


def test_nothing_is_kept_of_what_stands_for_others():
    model = made(name="recorded")
    x, keep = given()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        model(fake.from_tensor(x), keep)
    torch.func.vmap(model, in_dims=(0, None))(x[None], keep)
    torch.export.export(model, (x, keep), strict=False)
    with Cosines() as cosines:
        first = model(x, keep)
    assert cosines.count == 2
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x, keep), first)


GIVEN_AWAY = {
    "at once": "outputs: cos(range(n))",
    "a variable": "flow:\n  - y = cos(range(n))\noutputs: y",
    "seen otherwise": "flow:\n  - y = outer(cos(range(n)) * ones([d]))\n  - z = rearrange(y, 'n d -> d n')\noutputs: z",
    "by a block": "blocks:\n  f(x):\n    - cos(range(n))\noutputs: f(x)",
    "an average": "blocks:\n  f(x):\n    query: x\n    value: x\n    over: n\n    locality: i == j\n"
    "    message: outer(cos(j) * ones([d]))\noutputs: f(x)",
}


@pytest.mark.parametrize("name", GIVEN_AWAY)
def test_who_changes_a_result_changes_nothing_else(name):
    text = f"tower: given\nsizes: {{d: 3}}\ninputs: {{x: 'float[n, d]'}}\n{GIVEN_AWAY[name]}\n"
    model = towerdsl.compile(text)()
    x = torch.zeros(5, 3)
    expected = model(x).clone()
    model(x).zero_()
    assert torch.equal(model(x), expected)
    assert expected.any()


@pytest.mark.parametrize("name", ["lambda", "forward", "kept", "head", "_", "query"])
def test_a_method_is_called_after_what_it_makes(name):
    text = TEXT.replace("blocks:", f"define:\n  turned({name}): {name} * sum(q) + {name} * dot(q, k)\nblocks:")
    text = text.replace("score: dot(rope(q, i, dk), rope(k, j, dk)) / sqrt(dk)", "score: turned(cos(i / 2))")
    model = towerdsl.compile(text)()
    assert torch.equal(model(*given()), anew(model, *given()))


class Made(torch.nn.Module):
    def __init__(self, h):
        super().__init__()
        self.h, self.calls = h, []

    @kept
    def zeros(self, n: int, device: torch.device) -> torch.Tensor:
        self.calls.append(n)
        return torch.zeros(n, self.h, device=device, dtype=torch.uint8)


def test_what_is_kept_is_bounded():
    cpu = torch.device("cpu")
    model, other = Made(1), Made(2)
    assert model.zeros(3, cpu).shape == (3, 1)
    assert other.zeros(3, cpu).shape == (3, 2)  # the numbers of the module count
    assert model.zeros(3, cpu) is model.zeros(3, cpu)
    assert Made(1).zeros(3, cpu) is model.zeros(3, cpu)
    assert model.zeros(KEPT_BYTES + 1, cpu) is not model.zeros(KEPT_BYTES + 1, cpu)
    first = model.zeros(KEPT_BYTES, cpu)
    assert model.zeros(KEPT_BYTES, cpu) is first
    model.zeros(1, cpu)
    assert model.zeros(KEPT_BYTES, cpu) is not first
    held = [model.zeros(n, cpu) for n in range(KEPT_RESULTS + 1)]
    assert model.zeros(KEPT_RESULTS, cpu) is held[-1]
    assert model.zeros(0, cpu) is not held[0]
