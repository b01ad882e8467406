"""Which heads of BERT look at the next word, at separators, at the subject: MiniLM on real sentences.

    python examples/look_inside_bert.py

The weights are sentence-transformers' all-MiniLM-L6-v2, as in sentence_search.py. In each sentence a verb and its
subject are marked; a head that looks from the verb at the subject more than at any other word has found it
(after Clark et al. 2019, arXiv:1906.04341).
"""

import argparse
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

import towerdsl
from towerdsl.maps import measures, pictures

HERE = Path(__file__).parent
#: *subject* and _verb_ with other words between them, so that looking at the word before is not enough.
SENTENCES = """
The *keys* to the old cabinet _are_ on the table.
The *author* of the letters quickly _wrote_ a second book.
My *neighbor* with the two dogs always _walks_ in the park.
A *message* from our friends _arrived_ late last night.
The *children* who played outside _came_ home at six.
The *price* of these houses never _falls_ in winter.
His *brother*, a famous painter, _lives_ in Paris.
The *results* of the second test _surprise_ everyone.
The *captain* of the ships calmly _gave_ the order.
Her *stories* about the war often _make_ people cry.
""".strip().splitlines()


def main() -> None:
    options = parse_options()
    search = runpy.run_path(str(HERE / "sentence_search.py"))
    folder = options.model or search["installed_weights"]()
    for file in (folder / "model.safetensors", folder / "tokenizer.json"):
        if not file.is_file():
            sys.exit(f"There is no file {file}.")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    model = towerdsl.load("bert", folder / "model.safetensors", format="huggingface", **search["MINILM"])

    found = []  # of each sentence: the maps, its tokens, which of them are the subject and the verb
    for marked in SENTENCES:
        text = re.sub(r"[*_]", "", marked)
        encoded = tokenizer.encode(text)
        with torch.inference_mode(), towerdsl.probe(model, at="layer.*.attention") as maps:
            model(torch.tensor([encoded.ids]))
        found.append((maps, encoded.tokens, *(token_of(encoded, marked, mark) for mark in "*_")))

    heads = torch.stack([torch.stack([of_heads(one, tokens) for one in maps]) for maps, tokens, *_ in found]).mean(0)
    subject = torch.stack([torch.stack([one.weights[0, :, v, s] for one in maps]) for maps, _, s, v in found])
    hits = torch.stack([torch.stack([words(one, v, tokens) == s for one in maps]) for maps, tokens, s, v in found])
    show(heads, subject.mean(0), hits.float().mean(0))
    options.folder.mkdir(parents=True, exist_ok=True)
    layer, head = divmod(int(hits.float().mean(0).flatten().argmax()), hits.shape[2])
    number = int(hits[:, layer, head].float().argmax())  # the first sentence whose subject that head finds
    maps, tokens, _, verb = found[number]
    grid = pictures.head_grid(maps, title=f"MiniLM reads: {re.sub(r'[*_]', '', SENTENCES[number])}")
    pictures.save(grid, options.folder / "bert_heads.png")
    one = replace(maps[layer], rows=torch.tensor([verb]), weights=maps[layer].weights[:, :, [verb]])
    view = pictures.lines(one, tokens, head=head, title=f"what head {layer}.{head} takes for the verb")
    pictures.save(view, options.folder / "bert_subject.png")
    print(f"pictures: {options.folder}/bert_heads.png, bert_subject.png")


def token_of(encoded, marked: str, mark: str) -> int:
    """The token where the marked word begins."""
    before = marked.split(mark)[0]
    return encoded.char_to_token(len(re.sub(r"[*_]", "", before)))


def of_heads(one, tokens: list[str]) -> torch.Tensor:
    """The mass that each head has on the next and the previous token, and on separators, [3, H]."""
    separators = [place for place, token in enumerate(tokens) if token in ("[CLS]", "[SEP]")]
    measured = (measures.mass_at(one, 1), measures.mass_at(one, -1), measures.mass_on(one, separators))
    return torch.stack([measures.head_mean(one, values) for values in measured])


def words(one, verb: int, tokens: list[str]) -> torch.Tensor:
    """The word, neither a separator nor the verb, that each head looks at most from the verb, [H]."""
    weights = one.weights[0, :, verb].clone()
    weights[:, [verb, *(place for place, token in enumerate(tokens) if token in ("[CLS]", "[SEP]"))]] = 0
    return weights.argmax(-1)


def show(heads: torch.Tensor, subject: torch.Tensor, hits: torch.Tensor) -> None:
    table = Table("looks", "head", "mass", "all heads", title="what the heads look at")
    kinds = ("at the next token", "at the one before", "at separators")
    for name, values in zip(kinds, heads.transpose(0, 1), strict=True):
        table.add_row(name, place(values), f"{values.max():.0%}", f"{values.mean():.0%}")
    best = hits.flatten().argmax()
    table.add_row("from verb to subject", place(hits), f"{subject.flatten()[best]:.0%}", f"{subject.mean():.0%}")
    Console().print(table)
    print(f"From the verb, head {place(hits)} looks at the subject first in {hits.max():.0%} of the sentences.")


def place(values: torch.Tensor) -> str:
    """layer.head of the largest number of [layers, heads]"""
    return "{}.{}".format(*divmod(int(values.argmax()), values.shape[1]))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder with model.safetensors and tokenizer.json")
    parser.add_argument("--folder", type=Path, default=Path("pictures"), help="where pictures go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
