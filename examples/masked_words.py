"""A small BERT learns to say which words are missing from a text, from those before and after them.

    python examples/masked_words.py
    python examples/masked_words.py --text book.txt         # a text of yours, in lines

The text is the King James Bible, verse by verse. The model is the library's bert, its norms first, trained on masked
words as in the paper (Devlin et al. 2018, arXiv:1810.04805, section 3.1): of 15 % of the words 80 % are hidden, 10 %
exchanged, 10 % left. Every tenth line is held out. What counts is how many of its masked words are guessed right,
beside the guess that looks at nothing, the commonest word of all. The paper gives perplexities (table 6), of other
words in other texts: 5.84 for three layers of 768 features, 3.99 for BERT-base.
"""

import sys
from math import exp
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from common import files, texts
from common.training import Run, number, one_cycle, parse, parser
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from torch import Generator, Tensor, nn

import towerdsl

SPECIAL = ["[PAD]", "[MASK]", "[UNK]"]
PAD, MASK, UNKNOWN = range(3)
ADVICE = "Give a text in UTF-8 to --text, of a hundred lines or more; each line is read by itself."
BATCH, RATE, LENGTH = 16, 1e-3, 48  # sentences; the highest rate; words of a sentence, what is longer is cut in pieces


def main() -> None:
    options = parser(__doc__, epochs=4)
    options.add_argument("--text", type=Path, default=files.DATA / "verses.en.xz", help="plain, or packed by xz")
    options.add_argument("--vocab", type=number(10, 100_000), default=4000, help="the commonest words (default: 4000)")
    options.add_argument("--heads", type=number(1, 64), default=4, help="of 32 features each (default: 4)")
    options.add_argument("--depth", type=number(1, 64), default=3, help="layers (default: 3)")
    options = parse(options)
    lines = list(dict.fromkeys(files.read(options.text, files.lines, ADVICE)))  # each but once
    if len(lines) < 100:
        sys.exit(f"{options.text} has {len(lines)} different lines. {ADVICE}")
    parts = [line for k, line in enumerate(lines) if k % 10], lines[::10]
    tokenizer = texts.whole_words(parts[0], options.vocab, SPECIAL)
    learned, held = (texts.pieces(tokenizer, part, LENGTH) for part in parts)

    torch.manual_seed(options.seed)
    sizes = {"d": 32 * options.heads, "heads": options.heads, "depth": options.depth, "context": LENGTH}
    sizes |= {"vocab": tokenizer.get_vocab_size(), "pretraining": True, "norm_first": True, "dropout": 0.0}
    model = towerdsl.compile("bert", **sizes)()
    measured = fit(model, learned, held, options)

    common = torch.tensor([word for ids in learned for word in ids if word > UNKNOWN]).bincount().argmax().item()
    unigram = fmean(word == common for ids in held for word in ids if word > UNKNOWN)
    show(model, tokenizer, [ids for ids in held if 8 <= len(ids) <= 16 and UNKNOWN not in ids][::50][:8])
    table = Table("", "guessed right", "perplexity", title=f"masked words of {len(parts[1]):,} lines")
    table.add_row("BERT, 3 layers of 768, other texts", "", "5.84")
    table.add_row(f'always "{tokenizer.id_to_token(common)}"', f"{unigram:.1%}", "")
    table.add_row("bert, here", f"{measured['right']:.1%}", f"{exp(measured['held']):.2f}")
    Console().print(table)


def fit(model: nn.Module, learned: list[list[int]], held: list[list[int]], options) -> dict[str, float]:
    """Trains the model; the loss at masked words of lines that are held out, and the share that it guesses right."""
    steps = -(-len(learned) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = one_cycle(optimizer, RATE, steps * options.epochs)
    run = Run("bert", options, model, optimizer, schedule)
    for epoch in run.epochs(steps):
        model.train()
        random, losses = Generator().manual_seed(1000 * options.seed + epoch), []
        for ids in run.track(texts.batches(learned, BATCH, random)):
            scores, words = guessed(model, ids, random)
            loss = F.cross_entropy(scores, words, reduction="sum") / max(1, len(words))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        model.eval()
        total = right = count = 0
        with torch.inference_mode():
            for ids in texts.batches(held, BATCH, random.manual_seed(0)):
                scores, words = guessed(model, ids, random)
                total += F.cross_entropy(scores, words, reduction="sum").item()
                right += (scores.argmax(-1) == words).sum().item()
                count += len(words)
        run.record(loss=fmean(losses), held=total / max(1, count), right=right / max(1, count))
    model.eval()
    return run.history[-1]


def guessed(model: nn.Module, ids: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """The scores of all words at the places that are masked, float[m, vocab], and the words there, int[m]."""
    chance = torch.rand(ids.shape, generator=random)
    masked = (ids > UNKNOWN) & (chance < 0.15)
    other = torch.randint(UNKNOWN + 1, model.words.num_embeddings, ids.shape, generator=random)
    seen = ids.masked_fill(masked & (chance < 0.12), MASK)
    seen = torch.where(masked & (chance >= 0.12) & (chance < 0.135), other, seen)
    return model(seen, keep=ids != PAD)[0][masked], ids[masked]


def show(model: nn.Module, tokenizer: Tokenizer, sentences: list[list[int]]) -> None:
    """What is guessed in each for the rarest word: words are numbered from the commonest on."""
    table = Table("a line that is held out", "the word", "best guesses")
    for ids in sentences:
        at = ids.index(max(ids))
        hidden = [*ids[:at], MASK, *ids[at + 1 :]]
        with torch.inference_mode():
            best = model(torch.tensor([hidden]))[0][0, at].topk(3).indices.tolist()
        line = " ".join("____" if k == MASK else tokenizer.id_to_token(k) for k in hidden)
        table.add_row(line, tokenizer.id_to_token(ids[at]), ", ".join(map(tokenizer.id_to_token, best)))
    Console().print(table)


if __name__ == "__main__":
    main()
