"""Scenes to find things in: one to three handwritten digits of different sizes on a canvas, and the box around each."""

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common.images import Images
from torch import Tensor

SIDE, MOST = 64, 3  # pixels; digits
SMALLEST, LARGEST = 14, 28  # pixels, of the height of a digit
TRIES = 20
NOTHING = 10  # the class of what is no digit


class Scenes(NamedTuple):
    pixels: Tensor  # float[n, SIDE, SIDE], from 0, the paper, to 1, the ink
    digits: Tensor  # int[n, MOST], NOTHING where there are fewer
    boxes: Tensor  # float[n, MOST, 4]: the center's x and y, the width, the height, in parts of the side

    def batches(self, size: int) -> list["Scenes"]:
        return [Scenes(*parts) for parts in zip(*(x.split(size) for x in self), strict=True)]

    def truth(self) -> list[tuple[Tensor, Tensor]]:
        """The digits and the boxes of each scene, as many as there are."""
        return [(digits[digits < NOTHING], boxes[digits < NOTHING]) for _, digits, boxes in zip(*self, strict=True)]


def scenes(images: Images, count: int, seed: str) -> Scenes:
    """So many scenes with digits from these images, each where there is no ink yet; the same for the same seed."""
    choose = random.Random(seed)
    made = Scenes(torch.zeros(count, SIDE, SIDE), torch.full((count, MOST), NOTHING), torch.zeros(count, MOST, 4))
    for canvas, digits, boxes in zip(*made, strict=True):
        for place in range(choose.randint(1, MOST)):
            image = choose.randrange(len(images.digits))
            ink, height = cropped(images.pixels[image]), choose.randint(SMALLEST, LARGEST)
            width = min(LARGEST, max(2, round(height * ink.shape[1] / ink.shape[0])))
            for _ in range(TRIES):  # what finds no room is left out
                top, left = choose.randint(0, SIDE - height), choose.randint(0, SIDE - width)
                room = canvas[top : top + height, left : left + width]
                if not room.any():
                    room += F.interpolate(ink[None, None], (height, width), mode="area")[0, 0]
                    digits[place] = images.digits[image]
                    boxes[place] = torch.tensor([left + width / 2, top + height / 2, width, height]) / SIDE
                    break
    return made


def cropped(pixels: Tensor) -> Tensor:
    """The part of an image that has ink."""
    rows, columns = (pixels.amax(dim).gt(0.2).nonzero().flatten().tolist() for dim in (1, 0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows else pixels
