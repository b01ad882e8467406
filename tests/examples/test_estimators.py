"""Estimators of the gradient of hard attention: which are biased, and which scatter."""

import json

import pytest
import torch

import towerdsl

from . import running

SAMPLES = 5000


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimators")
    out = running.run("estimators", "--samples", SAMPLES, "--folder", folder)
    assert "straight-through" in out and (folder / "estimators.png").stat().st_size > 10_000
    return json.loads((folder / "query" / "epoch-20" / "history.json").read_text())["history"]


def test_it_learns(history):
    """96 % of the draws are right at the end; 12 % where the score is a constant, 0 % where place 0 is hidden."""
    assert history[0]["right"] < 0.2 and history[-1]["right"] > 0.9


def test_bias(history):
    """A mean of so many draws is off by its standard error, where there is no bias; 4 of them are no chance."""
    names = [key.removesuffix(", bias") for key in history[0] if key.endswith("bias")]
    errors = {
        name: [epoch[f"{name}, bias"] / (epoch[f"{name}, variance"] / SAMPLES) ** 0.5 for epoch in history]
        for name in names
    }
    for name in ("REINFORCE", "with a baseline"):
        assert max(errors[name]) < 4 and sum(errors[name]) / len(history) < 1.5
    for name in ("straight-through", "Gumbel, T = 2", "Gumbel, T = 0.5"):
        assert errors[name][0] > 6
    assert history[0]["Gumbel, T = 0.5, bias"] < history[0]["Gumbel, T = 2, bias"]


def test_variance(history):
    for epoch in history[:10]:
        of = {name.removesuffix(", variance"): value for name, value in epoch.items() if name.endswith("variance")}
        assert max(of, key=of.get) == "REINFORCE" and of["with a baseline"] < 0.9 * of["REINFORCE"]
        assert max(of["straight-through"], of["Gumbel, T = 2"]) < 0.1 * of["REINFORCE"]
        assert of["Gumbel, T = 2"] < of["Gumbel, T = 0.5"]


def test_the_gradient_is_the_sum_over_all_places():
    """What the example calls exact, and the mean of REINFORCE over all eight draws, each with its probability."""
    import estimators

    torch.manual_seed(0)
    places, values, query = torch.randn(8, 4), torch.randn(8, 3), torch.randn(4, requires_grad=True)
    losses = estimators.losses_of(values, values)
    (expected,) = torch.autograd.grad(((places @ query).softmax(0) * losses).sum(), query)
    model = towerdsl.compile(estimators.SPEC)()
    model.load_state_dict({"u": query.detach()[None]})
    (exact,) = torch.autograd.grad(model(places, losses[:, None]).sum(), model.u)
    torch.testing.assert_close(exact[0], expected)

    hard = towerdsl.compile(estimators.SPEC, samples=50_000, weights="hard(score_function)")()
    draws = estimators.draw_gradients(hard, model.u, places, values, baseline=True)
    torch.testing.assert_close(draws.mean(0), expected, rtol=0, atol=4 * float(draws.std(0).max()) / 50_000**0.5)
