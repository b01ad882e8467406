"""Boxes [..., 4], the center's x and y, the width, the height: how much two overlap, and COCO's average precision."""

import contextlib
import io
from collections.abc import Iterator

import torch
from torch import Tensor


def corners(boxes: Tensor) -> Tensor:
    """left, top, right, bottom"""
    center, size = boxes.split(2, -1)
    return torch.cat([center - size / 2, center + size / 2], -1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """intersection / union - (hull - union) / hull, from -1 to 1 (Rezatofighi et al. 2019, arXiv:1902.09630)."""
    (a_low, a_high), (b_low, b_high) = corners(a).split(2, -1), corners(b).split(2, -1)
    intersection = (a_high.minimum(b_high) - a_low.maximum(b_low)).clamp(min=0).prod(-1)
    hull = (a_high.maximum(b_high) - a_low.minimum(b_low)).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - intersection
    return intersection / union - (hull - union) / hull


def average_precision(
    truth: list[tuple[Tensor, Tensor]], found: list[tuple[Tensor, Tensor, Tensor]], side: int
) -> tuple[float, float]:
    """AP and AP50 of COCO: means over classes, and AP over IoUs from 0.5 to 0.95 too. A side has so many pixels.

    truth: for each image the classes int[n] and boxes [n, 4]; found: classes, boxes, and scores [n]
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(images: list[tuple[Tensor, ...]]) -> Iterator[dict]:
        for image, (classes, boxes, *scores) in enumerate(images):
            starts = (boxes[:, :2] - boxes[:, 2:] / 2) * side
            for k, (kind, start, size) in enumerate(zip(classes, starts, boxes[:, 2:] * side, strict=True)):
                row = {"image_id": image, "category_id": int(kind), "bbox": [*start.tolist(), *size.tolist()]}
                yield row | ({"score": float(scores[0][k])} if scores else {})

    known = [
        row | {"id": k, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0} for k, row in enumerate(rows(truth), 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": kind} for kind in sorted({row["category_id"] for row in known})],
            "annotations": known,
        }
        coco.createIndex()
        measure = COCOeval(coco, coco.loadRes(list(rows(found))), "bbox")
        measure.evaluate()
        measure.accumulate()
        measure.summarize()
    return float(measure.stats[0]), float(measure.stats[1])
