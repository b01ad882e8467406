"""Learning where to look when one place is drawn: estimators of the gradient, beside the gradient itself.

    python examples/estimators.py

A query (estimators.yaml) looks at one of eight places; the loss is how far off what it finds is. The expected loss is
a sum over places, so its gradient is known, and the query is trained along it. After each epoch every estimator is
drawn many times. Its bias is the distance of the mean of all draws from the gradient, its variance the mean squared
distance of a draw from that mean; both in units of the gradient's length.

    REINFORCE          loss * gradient of log p                      Williams 1992
    with a baseline    (loss - mean of the others) * the same        Xu et al. 2015, arXiv:1502.03044, section 4.1
    straight-through   one place forward, the softmax backward       Bengio et al. 2013, arXiv:1308.3432
    Gumbel             the same with noise and a temperature T       Jang et al. 2017, arXiv:1611.01144, section 2.2
"""

from pathlib import Path

import torch
from common.training import Run, parse, parser, positive
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

import towerdsl
from towerdsl.maps import pictures

SPEC = Path(__file__).with_suffix(".yaml")
PLACES, STEPS = 8, 10
# The sizes of each, and whether the papers say that it is biased.
ESTIMATORS = {
    "REINFORCE": ({"weights": "hard(score_function)"}, "none"),
    "with a baseline": ({"weights": "hard(score_function)"}, "none"),
    "straight-through": ({"weights": "hard(straight_through)"}, "some"),
    "Gumbel, T = 2": ({"weights": "hard(gumbel)", "temperature": 2.0}, "some"),
    "Gumbel, T = 0.5": ({"weights": "hard(gumbel)", "temperature": 0.5}, "some"),
}


def main() -> None:
    options = parser(__doc__, epochs=20)
    options.add_argument("--samples", type=positive, default=50_000, help="draws of each estimator (default: 50,000)")
    options = parse(options)
    draw = torch.Generator().manual_seed(options.seed)
    places, values = torch.randn(PLACES, 4, generator=draw), torch.randn(PLACES, 3, generator=draw)
    losses = losses_of(values, values)  # float[place]

    torch.manual_seed(options.seed)
    model = towerdsl.compile(SPEC)()
    hard = {name: towerdsl.compile(SPEC, samples=options.samples, **of)() for name, (of, _) in ESTIMATORS.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = Run("query", options, model, optimizer)
    for _ in run.epochs(STEPS):
        for _ in run.track(range(STEPS)):
            # soft attention over the losses is the expected loss of hard attention: the sum over j of p[j] * loss[j]
            optimizer.zero_grad()
            model(places, losses[:, None]).sum().backward()
            optimizer.step()
        expected = model(places, losses[:, None]).sum()
        (exact,) = torch.autograd.grad(expected, model.u)
        right = model(places, torch.eye(PLACES))[0, 0]  # of a one for each place: the weight of place 0
        run.record(loss=expected.item(), right=right.item())
        for name, drawing in hard.items():
            draws = draw_gradients(drawing, model.u, places, values, baseline="baseline" in name)
            mean, length = draws.mean(0), exact.norm()
            variance = (draws - mean).square().sum(1).mean() / length**2
            bias = (mean - exact[0]).norm() / length
            run.history[-1] |= {f"{name}, bias": bias.item(), f"{name}, variance": variance.item()}
    plot(run.history, options.samples, options.folder / "estimators.png")
    Console().print(shown(run.history, options.samples), f"picture: {options.folder / 'estimators.png'}")


def losses_of(found: Tensor, values: Tensor) -> Tensor:
    """Squared distances from what stands at place 0, which is what should be found."""
    return (found - values[0]).square().sum(-1)


def draw_gradients(hard, query: Tensor, places: Tensor, values: Tensor, baseline: bool) -> Tensor:
    """Estimates of the gradient by the query, float[samples, d], all drawn at once: a copy of the query for each."""
    with torch.no_grad():
        hard.u.copy_(query.expand_as(hard.u))
    found = hard(places, values)
    if isinstance(found, Tensor):
        estimate = losses_of(found, values)
    else:
        loss = losses_of(found.found, values)
        others = (loss.sum() - loss) / max(len(loss) - 1, 1) if baseline else 0
        estimate = (loss - others) * found.log_prob
    return torch.autograd.grad(estimate.sum(), hard.u)[0]


def shown(history: list[dict[str, float]], samples: int) -> Table:
    """Bias with its standard error, which is what is measured where there is no bias."""
    first, last = history[0], history[-1]
    heads = [f"{what}\nat {epoch['right']:.0%}" for epoch in (first, last) for what in ("bias", "variance")]
    table = Table("estimator", *heads, "bias in\npapers", caption="at so many draws of the right place")
    for name, (_, papers) in ESTIMATORS.items():
        pairs = [(epoch[f"{name}, bias"], epoch[f"{name}, variance"]) for epoch in (first, last)]
        cells = [cell for b, v in pairs for cell in (f"{b:.2f} ± {(v / samples) ** 0.5:.2f}", f"{v:.3g}")]
        table.add_row(name, *cells, papers)
    return table


def plot(history: list[dict[str, float]], samples: int, path: Path) -> None:
    picture = Figure(figsize=(9, 4.2), layout="constrained")
    right = [100 * epoch["right"] for epoch in history]
    for axes, what in zip(picture.subplots(1, 2), ("bias", "variance"), strict=True):
        for name in ESTIMATORS:
            axes.plot(right, [epoch[f"{name}, {what}"] for epoch in history], label=name if what == "bias" else None)
        axes.set(xlabel="draws of the right place, %", ylabel=what, yscale="linear" if what == "bias" else "log")
        axes.spines[["top", "right"]].set_visible(False)
    chance = [2 * (epoch["REINFORCE, variance"] / samples) ** 0.5 for epoch in history]
    picture.axes[0].fill_between(right, chance, color="0.9", label="2 standard errors of REINFORCE")
    picture.legend(loc="outside lower center", ncols=3, frameon=False)
    pictures.save(picture, path)


if __name__ == "__main__":
    main()
