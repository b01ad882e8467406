"""Global and local attention in recurrent networks equal loops over the paper's equations, values and gradients."""

import pytest
import torch
from safetensors.torch import load_file
from torch import exp, sigmoid, tanh

import towerdsl

SIZES = {"d": 4, "layers": 2, "source_words": 9, "target_words": 8, "longest": 7}
D = 1
SOURCES = [[3, 1, 7, 2, 2], [5, 8, 1]]
PREVIOUS = [[0, 4, 6, 1], [0, 7, 7, 2]]
LENGTH = 6
SOURCE = torch.tensor([words + [0] * (LENGTH - len(words)) for words in SOURCES])
KEEP = torch.tensor([[i < len(words) for i in range(LENGTH)] for words in SOURCES])
SPECS = ("luong_global", "luong_local_m", "luong_local_p")
SCORES = ("dot", "general", "concat", "location")


def times(matrix, vector):
    return torch.stack([(row * vector).sum() for row in matrix])


def lstm(w, name, x, state):
    """Zaremba et al. 2014, equations of the LSTM: c = f c + i g, h = o tanh(c), in each of the layers."""
    found = []
    for layer, (h, c) in enumerate(state):
        name_l = f"{name}.{layer}"
        gates = times(w[f"{name_l}.input.weight"], x) + w[f"{name_l}.input.bias"]
        gates = gates + times(w[f"{name_l}.hidden.weight"], h) + w[f"{name_l}.hidden.bias"]
        i, f, g, o = gates.split(SIZES["d"])
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        x = sigmoid(o) * tanh(c)
        found.append((x, c))
    return found


def content(w, kind, h, memory, s):
    """Equation 8: dot, general and concat; section 3.1: location."""
    if kind == "dot":
        return torch.sum(h * memory[s])
    if kind == "general":
        return torch.sum(h * times(w["W_a.keys"], memory[s]))
    if kind == "concat":
        both = torch.cat([w["W_a.attend"], w["W_a.keys"]], dim=1)
        return torch.sum(w["v_a"] * tanh(times(both, torch.cat([h, memory[s]]))))
    return times(w["W_a.attend"], h)[s]


def context(w, spec, kind, h, memory, t):
    """Equations 7 to 10; words and steps are counted from 0."""
    length = len(memory)
    p = length * sigmoid(torch.sum(w["v_p"] * tanh(times(w["W_p"], h)))) if spec == "luong_local_p" else t
    window = [s for s in range(length) if spec == "luong_global" or p - D <= s <= p + D]
    scores = {s: exp(content(w, kind, h, memory, s)) for s in window}
    total = sum(scores.values())
    found = torch.zeros_like(h)
    for s, score in scores.items():
        weight = score / total
        if spec == "luong_local_p":
            weight = weight * exp(-((s - p) ** 2) / (2 * (D / 2) ** 2))
        found = found + weight * memory[s]
    return found


def translate(w, spec, kind, feeding):
    """The logits W_s h~_t of each word, with h~_t = tanh(W_c [c_t; h_t]) fed to the next step."""
    zero = w["W_c"].new_zeros(SIZES["d"])
    sentences = []
    for words, previous in zip(SOURCES, PREVIOUS, strict=True):
        state = [(zero, zero)] * SIZES["layers"]
        memory = []
        for word in words:
            state = lstm(w, "encoder", w["source_words"][word], state)
            memory.append(state[-1][0])
        made, logits = zero, []
        for t, word in enumerate(previous):
            y = w["target_words"][word]
            state = lstm(w, "decoder", torch.cat([y, made]) if feeding else y, state)
            h = state[-1][0]
            made = tanh(times(w["W_c"], torch.cat([context(w, spec, kind, h, memory, t), h])))
            logits.append(times(w["W_s"], made))
        sentences.append(torch.stack(logits))
    return torch.stack(sentences)


@pytest.mark.parametrize("feeding", [True, False], ids=["feeding", "not"])
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("spec", SPECS)
def test_loops(spec, kind, feeding, tmp_path):
    torch.manual_seed(0)
    sizes = SIZES | ({} if spec == "luong_global" else {"D": D})
    ours = towerdsl.compile(spec, score=kind, input_feeding=feeding, **sizes)().eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    towerdsl.save_checkpoint(ours, tmp_path / "weights.safetensors", "paper")
    letters = {name: x.double().requires_grad_() for name, x in load_file(tmp_path / "weights.safetensors").items()}
    ours = ours.double()
    mine, loops = ours(SOURCE, torch.tensor(PREVIOUS), KEEP), translate(letters, spec, kind, feeding)
    assert mine.shape == (2, 4, SIZES["target_words"])
    torch.testing.assert_close(mine, loops, rtol=0, atol=1e-10)
    direction = torch.randn_like(loops)
    mine.backward(direction)
    loops.backward(direction)
    for parameter in ours.parameters():
        parameter.data = parameter.grad
    towerdsl.save_checkpoint(ours, tmp_path / "gradients.safetensors", "paper")
    for name, x in load_file(tmp_path / "gradients.safetensors").items():
        torch.testing.assert_close(x, letters[name].grad, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("spec", SPECS)
def test_sizes_of_the_paper(spec):
    """Four layers of 1000 cells, words of 1000, 50,000 words in each language; windows of 10 words to each side."""
    with torch.device("meta"):
        model = towerdsl.compile(spec, score="dot")()
    d, words = 1000, 50000
    layers = 8 * (4 * d * (2 * d) + 2 * 4 * d) + 4 * d * d  # the decoder's first sees what was made before, too
    predicted = d * d + d if spec == "luong_local_p" else 0
    assert sum(p.numel() for p in model.parameters()) == layers + 3 * words * d + d * 2 * d + predicted


def test_weights_of_a_predicted_window_do_not_sum_to_one():
    """The Gaussian comes after the softmax (equation 10): far from the predicted place little is taken."""
    torch.manual_seed(0)
    ours = towerdsl.compile("luong_local_p", D=3, **SIZES)().eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    seen = []
    hook = ours.translate.attend.register_forward_pre_hook(lambda _, given: seen.append(given))
    ours(SOURCE, torch.tensor(PREVIOUS), KEEP)
    hook.remove()
    for h, keys, memory, keep, p in seen:
        inside = keep & ((torch.arange(LENGTH) - p[:, None]).abs() <= 3)
        sums = ours.translate.attend(h, keys, torch.ones_like(memory), keep, p)[:, 0]
        assert ((sums < 1) & (sums > 0))[inside.any(1)].all()
