"""Search by key as a weighted average: a dictionary that answers a misspelled key.

    python examples/search_by_key.py
    python examples/search_by_key.py "Untied Kindom"

An ordinary dictionary gives the value whose key equals the query, and nothing otherwise. Attention gives the average of
all values, each weighted by how well its key matches. The larger the scale of the query, the more the best key weighs:
scale 0 is the mean of the whole dictionary, a large scale is exact lookup.
"""

import argparse
from itertools import pairwise

import torch
import torch.nn.functional as F

import towerdsl

# millions of people, 2023
POPULATION = {
    "Argentina": 45.8, "Australia": 26.6, "Austria": 9.1, "Brazil": 216.4, "Germany": 83.3, "Greece": 10.3,
    "India": 1428.6, "Indonesia": 277.5, "Ireland": 5.1, "Iceland": 0.4, "Kenya": 55.1, "Mexico": 128.5,
    "Morocco": 37.8, "Nigeria": 223.8, "Portugal": 10.2, "Romania": 19.1, "Slovakia": 5.8, "Slovenia": 2.1,
    "Spain": 47.5, "Switzerland": 8.8, "United Kingdom": 67.7, "United States": 340.0,
}  # fmt: skip
LETTERS = 27  # a to z, and everything else


def vector(name: str) -> torch.Tensor:
    """How often each pair of letters comes in the name, as a vector of length 1."""
    codes = ["abcdefghijklmnopqrstuvwxyz".find(letter) % LETTERS for letter in f" {name.lower()} "]
    pairs = torch.tensor([a * LETTERS + b for a, b in pairwise(codes)])
    return F.normalize(torch.bincount(pairs, minlength=LETTERS**2).float(), dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Look up a country's population by a misspelled name.")
    parser.add_argument("query", nargs="?", default="Swizerlant")
    query = parser.parse_args().query

    average = towerdsl.compile("scaled_dot_product", d=LETTERS**2, width=1 + len(POPULATION))()
    keys = torch.stack([vector(name) for name in POPULATION])
    # Beside the population, each value is the number of its row, one-hot: the average of those are the weights.
    values = torch.cat([torch.tensor(list(POPULATION.values()))[:, None], torch.eye(len(POPULATION))], dim=1)

    print(f"{query}: how many million people?\n\n  scale   answer   best key")
    for scale in (0, 100, 200, 400, 800, 1600):
        answer, *weights = average(scale * vector(query)[None, None], keys[None], values[None])[0, 0].tolist()
        weight, best = max(zip(weights, POPULATION, strict=True))
        print(f"{scale:7} {answer:8.1f}   {best} ({weight:.0%})" if scale else f"{scale:7} {answer:8.1f}   all alike")


if __name__ == "__main__":
    main()
