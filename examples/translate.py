"""Translation by the Transformer: English into Spanish, learned from a few thousand short verses.

    python examples/translate.py
    python examples/translate.py --source lines.de --target lines.en    # line n of one translates line n of the other

The model is the library's transformer, trained as in the paper (Vaswani et al. 2017, arXiv:1706.03762, section 5): byte
pairs that both languages share, batches of like length, Adam, dropout, smoothed labels. It is judged by lines that it
was not shown. The paper's BLEU is 28.4 for English into German and 41.8 into French: of news, after 4.5 and 36 million
sentences and 3.5 days on eight GPUs, so it stands beside ours without being comparable. What ours has to beat is to
copy the translation of the verse that has most words in common with the one asked for, rare words counting more.
"""

import random
import sys
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from common import files, texts
from common.training import Run, number, one_cycle, parse, parser, positive
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sacrebleu import BLEU
from tokenizers import Tokenizer
from torch import Tensor, nn

import towerdsl
from towerdsl.maps import pictures

ADVICE = "Give two files with a sentence a line, plain or .xz, to --source and --target; verses are in examples/data."
BATCH, RATE = 16, 2e-3


def main() -> None:
    options = parser(__doc__, epochs=20)
    options.add_argument("--source", type=Path, default=files.DATA / "verses.en.xz", help="lines to translate")
    options.add_argument("--target", type=Path, default=files.DATA / "verses.es.xz", help="their translations")
    options.add_argument("--longest", type=positive, default=15, help="words of a line (default: 15)")
    options.add_argument("--held", type=positive, default=500, help="lines to be judged by (default: 500)")
    options.add_argument("--vocab", type=positive, default=2000, help="tokens, at least 259 (default: 2000)")
    options.add_argument("--heads", type=number(1, 64), default=4, help="of 32 features each (default: 4)")
    options.add_argument("--depth", type=number(1, 64), default=2, help="layers of each side (default: 2)")
    options = parse(options)
    lines = texts.aligned(options.source, options.target, options.longest, ADVICE)
    if len(lines) < 2 * options.held:
        sys.exit(f"Only {len(lines)} lines have at most {options.longest} words, too few for --held. {ADVICE}")
    random.Random(options.seed).shuffle(lines)
    learned, held = lines[options.held :], sorted(lines[: options.held], key=lambda pair: len(pair[0]))
    tokens = texts.byte_pairs((line for pair in learned for line in pair), options.vocab, texts.SPECIAL)

    torch.manual_seed(options.seed)
    sizes = {"d": 32 * options.heads, "ff": 128 * options.heads, "heads": options.heads, "depth": options.depth}
    model = towerdsl.compile("transformer", vocab=tokens.get_vocab_size(), **sizes)()
    asked = texts.numbered(tokens, held)
    history = fit(model, texts.numbered(tokens, learned), asked, options)

    found = tokens.decode_batch(texts.translated(model, [source for source, _ in asked]))
    for (source, target), ours in list(zip(held, found, strict=True))[len(held) // 10 :: len(held) // 5 + 1]:
        print(f"\n{source}\n  {target}\n  {ours}")
    bleu, references = BLEU(), [[target for _, target in held]]
    table = Table("", "sentences", "BLEU", title=f"{options.source.name} into {options.target.name}")
    table.add_row("paper, English into German", "4,500,000", "28.4")
    table.add_row("paper, English into French", "36,000,000", "41.8")
    for name, texts_of in (("copied", texts.copied(learned, held)), ("transformer", found)):
        table.add_row(f"here, {name}", f"{len(learned):,}", f"{bleu.corpus_score(texts_of, references).score:.1f}")
    Console().print(table, f"BLEU: {bleu.get_signature()}\npictures: {options.folder}/losses.png, attention.png")
    draw(model, history, tokens, asked[len(asked) // 2][0], options.folder)


def fit(model: nn.Module, learned: list[texts.Pair], held: list[texts.Pair], options) -> list[dict[str, float]]:
    """Trains the model; for each epoch the loss of what it learns from, and of what is held out."""
    steps = -(-len(learned) // BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.98), eps=1e-9)
    schedule = one_cycle(optimizer, RATE, options.epochs * steps, cycle_momentum=False)
    run = Run("transformer", options, model, optimizer, schedule)
    for epoch in run.epochs(steps):
        model.train()
        losses = []
        for batch in run.track(texts.alike(learned, BATCH, seed=1000 * options.seed + epoch)):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        model.eval()
        with torch.inference_mode():
            run.record(learned=fmean(losses), held=fmean(loss_of(model, x).item() for x in texts.alike(held, BATCH, 0)))
    model.eval()
    return run.history


def loss_of(model: nn.Module, batch: list[texts.Pair]) -> Tensor:
    """Of each next token of the translations, given the sources and the tokens before it."""
    source, target = (texts.padded(side) for side in zip(*batch, strict=True))
    logits = model(source, target[:, :-1], source != texts.PAD)  # only padding sees the target's padding
    return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=texts.PAD, label_smoothing=0.1)


def draw(model: nn.Module, history: list[dict[str, float]], tokens: Tokenizer, source: list[int], to: Path) -> None:
    """The losses; and what the last layer looks at while it translates a sentence."""
    axes = (figure := Figure(figsize=(5, 4), layout="constrained")).subplots()
    axes.plot(range(1, len(history) + 1), [(epoch["learned"], epoch["held"]) for epoch in history])
    axes.set(xlabel="epochs", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(["lines learned from", "lines held out"])
    pictures.save(figure, to / "losses.png", dpi=120)
    (written,) = texts.translated(model, [source])
    with torch.inference_mode(), towerdsl.probe(model, at="decoder.layer.*.cross_attention") as maps:
        model(torch.tensor([source]), torch.tensor([written[:-1]]))
    spelled = [tokens.decode([i], skip_special_tokens=False).replace("\ufffd", "·") for i in [*source, *written[1:]]]
    picture = pictures.tokens(maps[-1], spelled[len(source) :], keys=spelled[: len(source)])
    pictures.save(picture, to / "attention.png")


if __name__ == "__main__":
    main()
