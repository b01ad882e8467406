"""Two models are equal: their values, and the gradients that reach their inputs and parameters.

A model is compared with a peer, another library's module whose weights come in through a checkpoint map, or with an
oracle, a function that is written from a paper's equations and reads the model's parameters by name.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import towerdsl
from towerdsl.weights import load_checkpoint, to_public
from towerdsl.weights.load import checkpoint_maps

Named = dict[str, Tensor]


def draw(model: nn.Module, std: float = 0.5, seed: int = 0) -> nn.Module:
    """Every parameter normal, so that zeros and ones hide nothing; running statistics anything that they can be."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        saved = model.state_dict().keys()  # what is not saved is no statistic, but a constant
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and name in saved:
                noise = torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype)
                buffer.copy_(0.5 + noise if name.endswith("var") else noise - 0.5)
    return model


def stir(model: nn.Module, std: float = 0.02, seed: int = 0) -> nn.Module:
    """Noise on what a model starts with: nothing is idle, and signals keep their size through many layers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.state_dict().items():
            if x.is_floating_point() and name.endswith("var"):
                x.mul_(0.5 + torch.rand(x.shape, generator=generator))
            elif x.is_floating_point():
                x.add_(std * torch.randn(x.shape, generator=generator))
    return model


def measure(call: Callable, parameters: Named, inputs: Named) -> Named:
    """The results of `call(**inputs)`, and the gradients of one projection of them."""
    inputs = {n: x.detach().clone().requires_grad_(x.is_floating_point()) for n, x in inputs.items()}
    results = call(**inputs)
    results = results if isinstance(results, (tuple, list)) else (results,)
    found = {f"result {n}": y.detach() for n, y in enumerate(results)}
    loss = sum((y * torch.linspace(-3, 3, y.numel(), dtype=y.dtype).cos().reshape(y.shape)).sum() for y in results)
    sources = {n: x for n, x in (parameters | inputs).items() if x.requires_grad}
    gradients = torch.autograd.grad(loss, list(sources.values()), allow_unused=True)
    for (name, x), gradient in zip(sources.items(), gradients, strict=True):
        found[f"gradient of {name}"] = torch.zeros_like(x) if gradient is None else gradient
    return found


def assert_same(mine: Named, theirs: Named, tolerance: float) -> None:
    """Every tensor differs by at most the tolerance times the largest number of its kind (result or gradient)."""
    worst = 0.0
    assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
    for kind in ("result", "gradient"):
        names = [n for n in theirs if n.startswith(kind)]
        scale = max((theirs[n].abs().max().item() for n in names), default=0.0)
        assert scale > 0 or not names, f"every {kind} is zero"
        for name in names:
            assert mine[name].shape == theirs[name].shape, name
            error = (mine[name] - theirs[name]).abs().max().item() / scale
            assert error <= tolerance, f"{name}: {error:.2e} of {scale:.2e}"
            worst = max(worst, error)
    print(f"largest difference: {worst:.1e} of the scale")


def assert_equals_peer(
    ours: nn.Module,
    theirs: nn.Module,
    format: str,
    inputs: Named,
    tolerance: float = 1e-5,
    call: Callable | None = None,
    names: Callable[[nn.Module, Named], Named] = lambda _, tensors: tensors,
) -> None:
    """The peer's weights, loaded through the map, give the peer's values and gradients, under the peer's names.

    `call(**inputs)` runs the peer, where it does not take the spec's inputs as they are.
    `names(theirs, tensors)` gives tensors the names that the peer's files have, where its modules have others.
    """
    load_checkpoint(ours, names(theirs, theirs.state_dict()), format, strict="all")
    of_files = {n: x.clone() for n, x in ours.state_dict().items()}
    draw(ours)
    load_checkpoint(ours, theirs.state_dict(), format, strict="all")  # as its modules call them
    assert all(torch.equal(x, of_files[n]) for n, x in ours.state_dict().items())
    mine = measure(ours, dict(ours.named_parameters()), inputs)
    gradient = {n: mine.pop(f"gradient of {n}", torch.zeros(x.shape)) for n, x in ours.state_dict().items()}
    public = to_public(checkpoint_maps(ours)[format], gradient)
    other = measure(call or theirs, dict(theirs.named_parameters()), inputs)
    trained = names(theirs, {n: other.pop(f"gradient of {n}") for n, x in theirs.named_parameters() if x.requires_grad})
    other |= {f"gradient of {n}": x for n, x in trained.items()}
    mine |= {f"gradient of {n}": public[_bare(n, ours, format)] for n in trained}
    assert_same(mine, other, tolerance)


def assert_equals_oracle(ours: nn.Module, oracle: Callable, inputs: Named, tolerance: float = 1e-10) -> None:
    """`oracle(p, **inputs)`, with the model's parameters and buffers by name, gives its values and gradients."""
    parameters = dict(ours.named_parameters())
    state = parameters | dict(ours.named_buffers())
    state = {n: x.clone() if n not in parameters else x for n, x in state.items()}
    theirs = measure(lambda **x: oracle(state, **x), parameters, inputs)
    assert_same(measure(ours, parameters, inputs), theirs, tolerance)


def published(spec: str, format: str, **sizes: object) -> dict[str, torch.Size]:
    """The public names and the shapes of a spec's parameters at its default sizes; nothing is allocated."""
    with torch.device("meta"):
        ours = towerdsl.compile(spec, **sizes)()
    return {n: x.shape for n, x in to_public(checkpoint_maps(ours)[format], ours.state_dict()).items()}


def assert_published_size(
    spec: str,
    format: str,
    peer: Callable[[], nn.Module],
    names: Callable[[nn.Module, Named], Named] = lambda _, tensors: tensors,
    **sizes: object,
) -> None:
    """At its default sizes the model has the peer's names, through the map, and shapes."""
    ours = towerdsl.compile(spec, **sizes)
    with torch.device("meta"):
        theirs = peer()
    expected = {_bare(n, ours, format): x.shape for n, x in names(theirs, theirs.state_dict()).items()}
    assert published(spec, format, **sizes) == expected


def assert_exchanges_files(spec: str, format: str, theirs: nn.Module, folder: Path, **sizes: object) -> nn.Module:
    """The model that a file of the peer's fills, to the last tensor; and the peer that its file fills is as before."""
    for name in ("theirs", "ours"):
        theirs.save_pretrained(folder / name)
    file = folder / "theirs" / "model.safetensors"
    ours = towerdsl.load(spec, checkpoint=file, format=format, strict="all", **sizes)
    towerdsl.save_checkpoint(ours, folder / "ours" / "model.safetensors", format)
    again = type(theirs).from_pretrained(folder / "ours")
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in theirs.state_dict().items())
    return ours


def _bare(name: str, ours: nn.Module | type[nn.Module], format: str) -> str:
    """A peer's name as the map has it, without a prefix that names of a checkpoint may have."""
    for prefix in checkpoint_maps(ours)[format].prefix:
        name = name.removeprefix(prefix)
    return name
