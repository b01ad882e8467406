"""`hard` while training: what is drawn, how often, and which gradient comes back.

The scores are an input and the values are one-hot, so the result shows the weights.
"""

import pytest
import torch

import towerdsl

HARD = ["hard", "hard(straight_through)", "hard(gumbel)", "hard(gumbel, temperature=0.5)", "hard(score_function)"]
SCORES = torch.tensor([[0.3, -0.7, 1.1, 0.0], [0.2, 0.2, -1.5, 0.4]], dtype=torch.float64)
SEEN = torch.tensor([True, True, True, False])
ONE_HOT = torch.eye(4, dtype=torch.float64)

SPEC = """
tower: sampler
inputs:
  x: float[b, n, 1]
  f: float[b, n, m]
  values: float[b, m, c]
  keep: bool[m]
blocks:
  pick(x, f, values, keep):
    query: x
    value: values
    score: f[i, j]
    mask: keep[j]
    normalize: {normalize}
outputs: pick(x, f, values, keep)
"""

GLIMPSE = """
tower: glimpse
inputs:
  x: float[b, n, 1]
  f: float[b, n, m]
  values: float[b, m, c]
blocks:
  pick(x, f, values):
    query: x
    value: values
    score: f[i, j]
    normalize: hard(score_function)
    output: [y, log_prob]
flow:
  - y, log_prob = pick(x, f, values)
outputs: [y, log_prob]
"""


def sampler(normalize, training=True):
    """`weights(f) [b, n, m]` of a model in training mode."""
    model = towerdsl.compile(SPEC.format(normalize=normalize))().double().train(training)

    def weights(f, values=ONE_HOT):
        x = torch.zeros(*f.shape[:2], 1, dtype=torch.float64)
        return model(x, f, values.expand(len(f), *values.shape), SEEN)

    return weights


def glimpse(f):
    """`(weights, log_prob)` of a glimpse in training mode."""
    model = towerdsl.compile(GLIMPSE)().double().train()
    x, values = torch.zeros(*f.shape[:2], 1, dtype=torch.float64), torch.eye(f.shape[2], dtype=torch.float64)
    return model(x, f, values.expand(len(f), *values.shape))


def softmax(f):
    return torch.where(SEEN, f, -torch.inf).softmax(-1)


@pytest.mark.parametrize("normalize", HARD)
def test_draws_one_key_as_often_as_softmax_says(normalize):
    draws = 4000
    torch.manual_seed(0)
    weights = sampler(normalize)(SCORES.expand(draws, 2, 4))
    torch.testing.assert_close(weights, weights.round(), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(draws, 2, dtype=torch.float64))
    # Four standard deviations of a frequency near one half.
    torch.testing.assert_close(weights.mean(0), softmax(SCORES), rtol=0, atol=4 * 0.5 / draws**0.5)
    assert not weights[..., 3].any()


@pytest.mark.parametrize("normalize", HARD)
def test_takes_the_largest_otherwise(normalize):
    expected = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.float64)
    scores = SCORES + torch.tensor([0.01, 0, 0, 0], dtype=torch.float64)
    weights = sampler(normalize, training=False)(scores.expand(5, 2, 4))
    torch.testing.assert_close(weights, expected.expand(5, 2, 4))


@pytest.mark.parametrize("normalize", ["hard", "hard(score_function)"])
def test_no_gradient_reaches_the_score(normalize):
    torch.manual_seed(0)
    f, v = SCORES.expand(3, 2, 4).clone().requires_grad_(), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    y = sampler(normalize)(f, v)
    of_f, of_v = torch.autograd.grad(y.sum(), [f, v], allow_unused=True)
    assert of_f is None or not of_f.any()
    chosen = [int((v - row).abs().sum(-1).argmin()) for row in y.detach().flatten(0, 1)]
    torch.testing.assert_close(of_v, torch.stack([torch.full((5,), float(chosen.count(j))) for j in range(4)]).double())


def test_straight_through_has_the_gradient_of_softmax():
    torch.manual_seed(0)
    v, towards = torch.randn(4, 5, dtype=torch.float64), torch.randn(3, 2, 5, dtype=torch.float64)
    gradients = []
    for normalize in ("hard(straight_through)", "softmax"):
        f = SCORES.expand(3, 2, 4).clone().requires_grad_()
        gradients += torch.autograd.grad((sampler(normalize)(f, v) * towards).sum(), f)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_gumbel_has_the_gradient_of_its_own_softmax(temperature):
    """Its Jacobian is `(diag(p) - p p^T) / T` for a `p` on the simplex, and the drawn key is the largest of `p`."""
    weights = sampler(f"hard(gumbel, temperature={temperature})")
    f = SCORES.expand(3, 2, 4).clone().requires_grad_()

    def column(k):
        torch.manual_seed(0)
        drawn = weights(f)
        return drawn.detach(), torch.autograd.grad(drawn[..., k].sum(), f)[0]

    drawn = column(0)[0]
    jacobian = torch.stack([column(k)[1] for k in range(3)], dim=-1)[..., :3, :]
    product = -temperature * jacobian  # p[a] * p[b], off the diagonal
    turns = (0, 1, 2), (1, 2, 0), (2, 0, 1)
    p = torch.stack([(product[..., a, b] * product[..., a, c] / product[..., b, c]).sqrt() for a, b, c in turns], -1)
    torch.testing.assert_close(p.sum(-1), torch.ones(3, 2, dtype=torch.float64))
    expected = (torch.diag_embed(p) - p[..., :, None] * p[..., None, :]) / temperature
    torch.testing.assert_close(jacobian, expected)
    assert torch.equal(p.argmax(-1), drawn.argmax(-1))


def test_log_prob_is_that_of_the_choice():
    torch.manual_seed(0)
    f = torch.randn(6, 2, 4, dtype=torch.float64)
    weights, log_prob = glimpse(f)
    assert log_prob.shape == (6, 2)
    torch.testing.assert_close(log_prob, (f.log_softmax(-1) * weights).sum(-1))


def test_reinforce_estimates_the_gradient():
    """E[reward * d log p] is the gradient of E[reward]."""
    reward = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    f = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(f.softmax(0) @ reward, f)

    torch.manual_seed(0)
    weights, log_prob = glimpse(f.expand(20000, 1, 3))
    (estimate,) = torch.autograd.grad(((weights @ reward) * log_prob).mean(), f)
    torch.testing.assert_close(estimate, expected, rtol=0, atol=0.03)
