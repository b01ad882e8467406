"""Recommendation as a weighted average of other people's ratings.

    python examples/recommend.py
    python examples/recommend.py Jin

The query is a person's taste, the keys are the tastes of everybody else, the values are their ratings. Who has not
seen a film is masked out of its average. The model is examples/recommend.yaml.
"""

import argparse
from pathlib import Path

import torch

import towerdsl

FILMS = "Alien, Blade Runner, The Matrix, Arrival, Amelie, Notting Hill, Before Sunrise, Paddington, Up, Totoro"
STARS = {  # in the order of the films; 0 is not seen
    "Ada": [5, 5, 4, 0, 2, 0, 0, 3, 0, 0],
    "Ben": [5, 4, 5, 4, 0, 1, 2, 0, 3, 0],
    "Chloe": [0, 4, 5, 5, 3, 2, 0, 0, 4, 3],
    "Dev": [1, 2, 0, 3, 5, 5, 5, 0, 0, 3],
    "Emi": [0, 2, 1, 0, 5, 4, 5, 4, 3, 0],
    "Farid": [2, 0, 0, 4, 4, 5, 0, 3, 4, 3],
    "Gia": [0, 3, 2, 0, 4, 0, 3, 5, 5, 5],
    "Hugo": [2, 0, 3, 3, 0, 3, 0, 5, 4, 5],
    "Ines": [4, 5, 0, 5, 0, 0, 3, 2, 0, 4],
    "Jin": [0, 0, 2, 0, 0, 3, 0, 5, 5, 0],
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Recommend films to a person.")
    parser.add_argument("person", nargs="?", choices=STARS, default="Ada")
    person = parser.parse_args().person
    films = FILMS.split(", ")
    others = [name for name in STARS if name != person]

    model = towerdsl.compile(Path(__file__).with_suffix(".yaml"), films=len(films))()
    yours = torch.tensor([STARS[person]], dtype=torch.float)
    theirs = torch.tensor([STARS[name] for name in others], dtype=torch.float)
    guesses = model(yours, theirs)[0].tolist()

    print(f"{person} has not seen")
    new = [(guess, film) for guess, film, stars in zip(guesses, films, STARS[person], strict=True) if not stars]
    for guess, film in sorted(new, reverse=True):
        print(f"  {film:15} {guess:.1f} stars")


if __name__ == "__main__":
    main()
