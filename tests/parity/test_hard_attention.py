"""Show, attend and tell equals its paper, written as loops; hard attention has the gradient of the mean reward."""

import itertools

import pytest
import torch
from torch import nn

import towerdsl
from towerdsl import cli

from .equal import assert_equals_oracle, assert_equals_peer, assert_published_size, assert_same, draw, measure

PLACES, TIMES = 3, 2
SIZES = {"d": 5, "m": 4, "n": 6, "vocab": 7}
HARD = ["hard", "hard(straight_through)", "hard(gumbel)", "hard(score_function)"]


def linear(p, name, x):
    y = p[f"{name}.weight"] @ x
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def softmax(e):
    powers = [torch.exp(f) for f in e]
    return torch.stack([f / sum(powers) for f in powers])


def caption(p, a, previous, choose):
    """One image, `a [L, D]`: the scores of each word, the weights of each step, and its baseline.

    `choose(t, alpha)` gives the weights that step t looks with, for the probabilities alpha of the places.
    """
    mean = sum(a) / len(a)
    h, c = torch.tanh(linear(p, "init_h", mean)), torch.tanh(linear(p, "init_c", mean))
    words, weights, baselines = [], [], []
    for t, word in enumerate(previous):
        hidden = p["glimpse.att_h.weight"] @ h
        e = [p["glimpse.w"] @ torch.tanh(linear(p, "att_a", a_i) + hidden) for a_i in a]  # equation 4
        s = choose(t, softmax(e))  # equations 5 and 8
        z = sum(s_i * a_i for s_i, a_i in zip(s, a, strict=True))  # equations 9 and 13
        if "b.weight" in p:
            baselines.append(linear(p, "b", h)[0])
        z = torch.sigmoid(linear(p, "beta", h))[0] * z  # section 4.2.1
        y = p["E.weight"][word]
        gates = linear(p, "lstm.input", torch.cat([y, z])) + linear(p, "lstm.hidden", h)
        i, f, g, o = gates.reshape(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)  # equation 2
        h = torch.sigmoid(o) * torch.tanh(c)  # equation 3
        words.append(linear(p, "L_o", y + linear(p, "L_h", h) + linear(p, "L_z", z)))  # equation 7
        weights.append(s)
    return torch.stack(words), torch.stack(weights), torch.stack(baselines) if baselines else None


def soft(t, alpha):
    return alpha


def one_hot(place):
    return torch.eye(PLACES, dtype=torch.float64)[place]


def most_likely(t, alpha):
    return one_hot(alpha.argmax())


def straight_through(t, alpha):
    return one_hot(alpha.argmax()) + alpha - alpha.detach()


def model_of(weights):
    return draw(towerdsl.compile("hard_attention", weights=weights, **SIZES)().double())


def image(count=2):
    random = torch.Generator().manual_seed(3)
    a = torch.randn(count, PLACES, SIZES["d"], dtype=torch.float64, generator=random)
    return {"a": a, "previous": torch.randint(SIZES["vocab"], (count, TIMES), generator=random)}


class Decoder(nn.Module):
    """Soft attention, of torch's layers."""

    def __init__(self, d=512, m=512, n=1800, vocab=10000):
        super().__init__()
        self.init_h, self.init_c, self.att_a = (nn.Linear(d, n) for _ in range(3))
        self.att_h, self.att_w, self.beta = nn.Linear(n, n, bias=False), nn.Parameter(torch.empty(n)), nn.Linear(n, 1)
        self.E, self.lstm = nn.Embedding(vocab, m), nn.LSTMCell(m + d, n)
        self.L_h, self.L_z, self.L_o = nn.Linear(n, m), nn.Linear(d, m), nn.Linear(m, vocab)

    def forward(self, a, previous):
        h, c = self.init_h(a.mean(1)).tanh(), self.init_c(a.mean(1)).tanh()
        words = []
        for y in self.E(previous).unbind(1):
            alpha = ((self.att_a(a) + self.att_h(h)[:, None]).tanh() @ self.att_w).softmax(-1)
            z = self.beta(h).sigmoid() * (alpha[..., None] * a).sum(1)
            h, c = self.lstm(torch.cat([y, z], -1), (h, c))
            words.append(self.L_o(y + self.L_h(h) + self.L_z(z)))
        return torch.stack(words, 1)


def test_decoder():
    ours = towerdsl.compile("hard_attention", **SIZES)().double()
    assert_equals_peer(ours, draw(Decoder(**SIZES)).double(), "torch", image(), 1e-12)


def test_published_size():
    assert_published_size("hard_attention", "torch", Decoder)


CHOICES = {"softmax": soft, "hard": most_likely, "hard(straight_through)": straight_through}


@pytest.mark.parametrize("weights", CHOICES)
def test_equations(weights):
    """Soft attention, and hard attention at the likeliest place, as it is after training."""
    model = model_of(weights).eval()

    def oracle(p, a, previous):
        return torch.stack([caption(p, *one, CHOICES[weights])[0] for one in zip(a, previous, strict=True)])

    assert_equals_oracle(model, oracle, image())


def test_gumbel_noise_of_nothing_is_straight_through():
    """After training there is no noise; at temperature 1 the gradient is that of softmax."""
    inputs = image()
    models = [model_of(weights).eval() for weights in ("hard(gumbel)", "hard(straight_through)")]
    assert_same(*(measure(model, dict(model.named_parameters()), inputs) for model in models), 1e-12)


def drawn(model, copies=400):
    """What the model does at each sequence of places, found by drawing often: `{places: (words, log p, baseline)}`."""
    inputs = {name: x.expand(copies, *x.shape[1:]) for name, x in image(1).items()}
    torch.manual_seed(0)
    results = model.train()(**inputs)
    p = dict(model.named_parameters())
    a, previous = inputs["a"][0], inputs["previous"][0]
    found = {}
    for places in itertools.product(range(PLACES), repeat=TIMES):
        words, _, _ = caption(p, a, previous, lambda t, alpha, places=places: one_hot(places[t]))
        same = [n for n in range(copies) if torch.allclose(results[0][n], words, rtol=0, atol=1e-9)]
        assert same, f"{places} was not drawn in {copies} trials"
        found[places] = tuple(y[same[0]] for y in results), len(same) / copies
    return found


@pytest.fixture(scope="module")
def reinforced():
    model = model_of("hard(score_function)")
    return model, drawn(model)


def test_every_sequence_of_places(reinforced):
    """Each is drawn as often as its probability says, and log_prob, words and baseline are the paper's."""
    model, found = reinforced
    p, (a, previous) = dict(model.named_parameters()), (x[0] for x in image(1).values())
    for places, ((words, log_prob, baseline), share) in found.items():
        likely = []

        def choose(t, alpha, places=places, likely=likely):
            likely.append(alpha[places[t]])
            return one_hot(places[t])

        expected, _, baselines = caption(p, a, previous, choose)
        mine = {"result": torch.cat([words.flatten(), log_prob, baseline]).detach()}
        theirs = {"result": torch.cat([expected.flatten(), torch.stack(likely).log(), baselines]).detach()}
        assert_same(mine, theirs, 1e-10)
        probability = log_prob.sum().exp().item()
        assert abs(share - probability) <= 4 * (probability * (1 - probability) / 400) ** 0.5
    assert len(found) == PLACES**TIMES


def reward(words):
    """The log likelihood of some caption: what the paper rewards."""
    return words.log_softmax(-1)[torch.arange(TIMES), torch.tensor([2, 5])].sum()


@pytest.mark.parametrize("with_baseline", [True, False])
def test_reinforce_is_unbiased(reinforced, with_baseline):
    """Over all places, the mean of the estimate of section 4.1 is the gradient of the expected reward, exactly."""
    model, found = reinforced
    p, (a, previous) = dict(model.named_parameters()), (x[0] for x in image(1).values())

    expected = 0
    for places in itertools.product(range(PLACES), repeat=TIMES):
        chances = []

        def choose(t, alpha, places=places, chances=chances):
            chances.append(alpha[places[t]])
            return one_hot(places[t])

        words, _, _ = caption(p, a, previous, choose)
        expected = expected + torch.stack(chances).prod() * reward(words)
    exact = torch.autograd.grad(expected, p.values(), allow_unused=True)

    estimate = 0
    for (words, log_prob, baseline), _ in found.values():
        advantage = reward(words) - (baseline if with_baseline else 0)
        surrogate = reward(words) + (advantage.detach() * log_prob).sum()
        estimate = estimate + log_prob.sum().exp().detach() * surrogate
    mean = torch.autograd.grad(estimate, p.values(), allow_unused=True, retain_graph=True)

    gradients = [
        {f"gradient of {n}": torch.zeros_like(x) if g is None else g for (n, x), g in zip(p.items(), of, strict=True)}
        for of in (mean, exact)
    ]
    assert gradients[1]["gradient of glimpse.w"].abs().max() > 1e-3
    assert_same(*gradients, 1e-10)


@pytest.mark.parametrize("weights", HARD)
def test_one_word_chooses(weights, capsys):
    assert cli.main(["check", "hard_attention", "--set", f"weights={weights}"]) == 0
    assert "1 attention" in capsys.readouterr().out


@pytest.mark.parametrize("weights", HARD)
def test_which_gradient_reaches_the_score(weights):
    """None where a place is only drawn; that of softmax where one is drawn but all are answered for."""
    model = model_of(weights).train()
    torch.manual_seed(0)
    result = model(**image())
    words, log_prob = (result[0], result[1]) if isinstance(result, tuple) else (result, None)
    (through_words,) = torch.autograd.grad(words.sum(), model.glimpse.w, retain_graph=True, allow_unused=True)
    reached = through_words is not None and bool(through_words.any())
    assert reached == (weights in ("hard(straight_through)", "hard(gumbel)"))
    if log_prob is not None:
        assert torch.autograd.grad(log_prob.sum(), model.glimpse.w)[0].any()
