"""Boxes [..., 4], the center's x and y, the width, the height: how much two overlap, and COCO's average precision."""

import contextlib
import io

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


def average_precision(truth: list[tuple[Tensor, Tensor]], found: list[tuple[Tensor, Tensor, Tensor]], side: int):
    """AP and AP50 of COCO: the mean over classes, and AP also over IoUs from 0.5 to 0.95.

    For each image: classes int[n] and boxes [n, 4]; classes, boxes and scores [n] of what was found.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(images):
        for image, (classes, boxes, *scores) in enumerate(images):
            for row in zip(classes.tolist(), boxes.tolist(), *(s.tolist() for s in scores), strict=True):
                kind, (x, y, w, h), *score = row
                box = [(x - w / 2) * side, (y - h / 2) * side, w * side, h * side]
                yield {"image_id": image, "category_id": kind, "bbox": box, "area": w * h * side**2, "iscrowd": 0} | (
                    {"score": score[0]} if score else {}
                )

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        annotations = [row | {"id": k} for k, row in enumerate(rows(truth), 1)]
        kinds = sorted({row["category_id"] for row in annotations})
        known.dataset = {
            "images": [{"id": k} for k in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": k} for k in kinds],
        }
        known.createIndex()
        measure = COCOeval(known, known.loadRes(list(rows(found))), "bbox")
        measure.evaluate(), measure.accumulate(), measure.summarize()
    return measure.stats[0], measure.stats[1]
