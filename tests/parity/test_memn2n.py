"""End-to-end memory networks equal loops over the paper's equations, values and gradients (arXiv:1503.08895)."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import towerdsl

SIZES = {"d": 6, "hops": 3, "vocab": 11, "memory": 7}
# Words of each sentence of two stories, the newest sentence first; the second story is shorter.
STORIES = [[[3, 4, 5], [6, 7, 8, 9, 10], [1, 2], [3, 3, 7, 1]], [[5, 9], [2, 8, 4, 6]]]
QUESTIONS = [[7, 4, 9], [1, 5]]


def filled(lists, length):
    return torch.tensor([words + [0] * (length - len(words)) for words in lists])


STORY = torch.stack([filled(sentences + [[]] * (4 - len(sentences)), 5) for sentences in STORIES])
QUESTION = filled(QUESTIONS, 3)


def place(k, j, words, d):
    """Section 4.1: l_kj = (1 - j/J) - (k/d)(1 - 2j/J), k and j from 1."""
    return (1 - j / words) - (k / d) * (1 - 2 * j / words)


def sentence(words, table):
    """m = sum over j of l_j * A x_j."""
    d = table.shape[1]
    vector = [table.new_zeros(()) for _ in range(d)]
    for j, word in enumerate(words, start=1):
        for k in range(1, d + 1):
            vector[k - 1] = vector[k - 1] + place(k, j, len(words), d) * table[word, k - 1]
    return torch.stack(vector)


def hop(u, memories, outputs, linear):
    """p_i = Softmax(u^T m_i), o = sum over i of p_i c_i; while training begins without the softmax."""
    scores = [sum(a * b for a, b in zip(u, m, strict=True)) for m in memories]
    if not linear:
        total = sum(torch.exp(s) for s in scores)
        scores = [torch.exp(s) / total for s in scores]
    return sum(p * c for p, c in zip(scores, outputs, strict=True))


def network(weights, tying, linear, hops):
    """The logits of the answer: a^ = Softmax(W u^{K+1}). Section 2.2 on how weights are shared."""
    answers = []
    for story, question in zip(STORIES, QUESTIONS, strict=True):
        if tying == "adjacent":  # A^{k+1} = C^k, B = A^1, W^T = C^K
            outs, out_times = list(weights["C"]), list(weights["T_C"])
            ins, in_times = [weights["A"], *outs[:-1]], [weights["T_A"], *out_times[:-1]]
            first, last = ins[0], outs[-1]
        else:  # A^1 = ... = A^K, C^1 = ... = C^K
            ins, in_times = [weights["A"]] * hops, [weights["T_A"]] * hops
            outs, out_times = [weights["C"][0]] * hops, [weights["T_C"][0]] * hops
            first, last = weights["B"], weights["W"]
        u = sentence(question, first)
        for k in range(hops):
            memories = [sentence(words, ins[k]) + in_times[k][i] for i, words in enumerate(story)]
            outputs = [sentence(words, outs[k]) + out_times[k][i] for i, words in enumerate(story)]
            o = hop(u, memories, outputs, linear)
            if tying != "adjacent":  # u^{k+1} = H u^k + o^k
                u = torch.stack([sum(h * x for h, x in zip(row, u, strict=True)) for row in weights["H.weight"]])
            u = u + o
        # the vector of the null symbol is constrained to be zero
        answers.append(
            torch.stack([u.sum() * 0, *(sum(w * x for w, x in zip(row, u, strict=True)) for row in last[1:])])
        )
    return torch.stack(answers)


def build(**sizes):
    torch.manual_seed(0)
    model = towerdsl.compile("memn2n", **(SIZES | sizes))().double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return model


@pytest.mark.parametrize("linear", [False, True], ids=["softmax", "linear"])
@pytest.mark.parametrize("tying", ["adjacent", "layerwise"])
@pytest.mark.parametrize("hops", [1, 3])
def test_loops(hops, tying, linear):
    ours = build(hops=hops, tying=tying, linear_start=linear)
    weights = {name: p.detach().clone().requires_grad_() for name, p in ours.named_parameters()}
    mine, loops = ours(STORY, QUESTION), network(weights, tying, linear, hops)
    assert mine.shape == (2, SIZES["vocab"])
    torch.testing.assert_close(mine, loops, rtol=0, atol=1e-10)
    direction = torch.randn_like(loops)
    mine.backward(direction)
    loops.backward(direction)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("tying", ["adjacent", "layerwise"])
def test_linear_start(tying):
    """Training begins without the softmax and goes on with it: the same parameters, and the optimizer's state."""
    torch.manual_seed(0)
    sizes = SIZES | {"tying": tying}
    linear = towerdsl.compile("memn2n", linear_start=True, **sizes)()
    softmax = towerdsl.compile("memn2n", **sizes)()
    answers = torch.tensor([9, 4])

    def train(model, optimizer):
        losses = []
        for _ in range(30):
            loss = cross_entropy(model(STORY, QUESTION), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    before = torch.optim.Adam(linear.parameters(), lr=0.01)
    first = train(linear, before)
    softmax.load_state_dict(linear.state_dict())
    after = torch.optim.Adam(softmax.parameters(), lr=0.01)
    after.load_state_dict(before.state_dict())
    assert not torch.allclose(softmax(STORY, QUESTION), linear(STORY, QUESTION))
    second = train(softmax, after)
    assert first[0] > first[-1] and second[0] > second[-1]
    linear.load_state_dict(softmax.state_dict())  # and back


@pytest.mark.parametrize("tying", ["adjacent", "layerwise"])
def test_the_letters_of_the_paper(tying, tmp_path):
    ours = build(tying=tying).float()
    file = tmp_path / "memn2n.safetensors"
    towerdsl.save_checkpoint(ours, file, "paper")
    outputs = range(SIZES["hops"] if tying == "adjacent" else 1)
    names = {"A", "T_A", *(f"{letter}.{k}" for letter in ("C", "T_C") for k in outputs)}
    assert set(load_file(file)) == names | (set() if tying == "adjacent" else {"B", "W", "H"})
    again = towerdsl.load("memn2n", checkpoint=file, format="paper", tying=tying, **SIZES)
    assert torch.equal(again(STORY, QUESTION), ours(STORY, QUESTION))


@pytest.mark.parametrize("tying", ["adjacent", "layerwise"])
def test_sizes_of_the_paper(tying):
    """Three hops, 177 words, 50 sentences; joint training on all tasks has vectors of 50."""
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in towerdsl.compile("memn2n", tying=tying)().named_parameters()}
    tables = 3 if tying == "adjacent" else 1
    expected = {"A": (177, 50), "C": (tables, 177, 50), "T_A": (50, 50), "T_C": (tables, 50, 50)}
    assert shapes == expected | ({} if tying == "adjacent" else {"B": (177, 50), "W": (177, 50), "H.weight": (50, 50)})
