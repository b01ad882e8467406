"""The first attention in a recurrent network equals loops over the paper's appendix, values and gradients."""

import pytest
import torch
from safetensors.torch import load_file
from torch import sigmoid, tanh

import towerdsl

SIZES = {"n": 5, "m": 4, "l": 3, "K_x": 9, "K_y": 8}
SOURCES = [[3, 1, 7, 2, 2], [5, 8, 1]]
PREVIOUS = [[0, 4, 6, 1], [0, 7, 7, 2]]
LENGTH = 6
SOURCE = torch.tensor([words + [0] * (LENGTH - len(words)) for words in SOURCES])
KEEP = torch.tensor([[i < len(words) for i in range(LENGTH)] for words in SOURCES])


def times(matrix, vector):
    return torch.stack([sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix])


def step(w, prefix, e, h, context=None):
    """A.1.1: (1 - z) h + z h~, with gates r and z; the decoder's also see the context."""

    def gate(name, state):
        found = times(w[f"{prefix}W{name}"], e) + times(w[f"{prefix}U{name}"], state)
        return found if context is None else found + times(w[f"C{name}"], context)

    r, z = sigmoid(gate("_r", h)), sigmoid(gate("_z", h))
    return (1 - z) * h + z * tanh(gate("", r * h))


def encode(w, words):
    """A.2.1: the annotation of a word is the state of both directions."""
    right, left = [], []
    h = w["W_s"].new_zeros(SIZES["n"])
    for word in words:
        h = step(w, "rightward.", w["E_x"][word], h)
        right.append(h)
    h = torch.zeros_like(h)
    for word in reversed(words):
        h = step(w, "leftward.", w["E_x"][word], h)
        left.insert(0, h)
    return [torch.cat(pair) for pair in zip(right, left, strict=True)], left[0]


def align(w, s, annotations):
    """A.1.2: e_ij = v_a^T tanh(W_a s_{i-1} + U_a h_j), and the context c_i."""
    e = [sum(w["v_a"] * tanh(times(w["W_a"], s) + times(w["U_a"], h))) for h in annotations]
    total = sum(torch.exp(x) for x in e)
    return sum(torch.exp(x) / total * h for x, h in zip(e, annotations, strict=True))


def translate(w):
    """A.2.2: the logits W_o t_i of each word."""
    sentences = []
    for words, previous in zip(SOURCES, PREVIOUS, strict=True):
        annotations, first = encode(w, words)
        s = tanh(times(w["W_s"], first))
        logits = []
        for word in previous:
            y = w["E_y"][word]
            c = align(w, s, annotations)
            t = times(w["U_o"], s) + times(w["V_o"], y) + times(w["C_o"], c)
            t = torch.stack([max(t[2 * j], t[2 * j + 1]) for j in range(SIZES["l"])])
            logits.append(times(w["W_o"], t))
            s = step(w, "", y, s, c)
        sentences.append(torch.stack(logits))
    return torch.stack(sentences)


@pytest.fixture
def ours():
    torch.manual_seed(0)
    model = towerdsl.compile("bahdanau", **SIZES)()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


@pytest.fixture
def letters(ours, tmp_path):
    """The weights under the paper's letters."""
    towerdsl.save_checkpoint(ours, tmp_path / "paper.safetensors", "paper")
    return {name: x.double().requires_grad_() for name, x in load_file(tmp_path / "paper.safetensors").items()}


def test_the_letters_of_the_paper(letters):
    gates = [letter + gate for letter in "WU" for gate in ("", "_r", "_z")]
    encoder = [f"{direction}.{x}" for direction in ("rightward", "leftward") for x in gates]
    decoder = [*gates, "C", "C_r", "C_z", "W_s", "W_a", "U_a", "v_a", "U_o", "V_o", "C_o", "W_o", "E_x", "E_y"]
    assert sorted(letters) == sorted(encoder + decoder)


def test_loops(ours, letters, tmp_path):
    ours = ours.double()
    mine, loops = ours(SOURCE, torch.tensor(PREVIOUS), KEEP), translate(letters)
    assert mine.shape == (2, 4, SIZES["K_y"])
    torch.testing.assert_close(mine, loops, rtol=0, atol=1e-10)
    direction = torch.randn_like(loops)
    mine.backward(direction)
    loops.backward(direction)
    for parameter in ours.parameters():
        parameter.data = parameter.grad
    towerdsl.save_checkpoint(ours, tmp_path / "gradients.safetensors", "paper")
    gradients = load_file(tmp_path / "gradients.safetensors")
    for name, x in letters.items():
        torch.testing.assert_close(gradients[name], x.grad, rtol=1e-10, atol=1e-10, msg=name)


def test_padding_in_front(ours):
    """The state is held wherever the padding is, so a batch may be padded on either side."""
    behind = ours(SOURCE, torch.tensor(PREVIOUS), KEEP)
    before = [LENGTH - len(words) for words in SOURCES]
    turned = [torch.stack([row.roll(by) for row, by in zip(x, before, strict=True)]) for x in (SOURCE, KEEP)]
    torch.testing.assert_close(ours(turned[0], torch.tensor(PREVIOUS), turned[1]), behind, rtol=0, atol=1e-6)


def test_sizes_of_the_paper():
    """1000 hidden units, words of 620, 500 maxout units, 30,000 words in each language."""
    with torch.device("meta"):
        model = towerdsl.compile("bahdanau")()
    hidden, word, maxout, vocab = 1000, 620, 500, 30000
    encoder = 2 * 3 * hidden * (word + hidden)
    decoder = 3 * hidden * (word + hidden + 2 * hidden) + hidden * hidden
    alignment = hidden * (hidden + 2 * hidden + 1)
    output = 2 * maxout * (hidden + word + 2 * hidden) + vocab * maxout
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder + alignment + output + 2 * vocab * word
