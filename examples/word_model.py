"""Two language models of Shakespeare's plays that differ in one line: gpt, and gpt whose tokens see only a window.

    python examples/word_model.py
    python examples/word_model.py --text notes.txt

The first is the library's gpt, the second word_model.yaml, beside this file. Both are trained from the same seed on the
same batches of the first 90 % of the text, and asked for the rest. Tokens are byte pairs, learned from those 90 %, so
losses are also given per character: nanoGPT (github.com/karpathy/nanoGPT) reads the same text in the same parts, in
pieces of 64 letters, and gets to 1.88 nats with 0.8 million parameters in three minutes on a CPU. A piece is longer
here, 128 tokens, and yet a window of 16 does better than the whole: so short a training finds what is near first.
"""

import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from common import files, texts
from common.training import Run, number, one_cycle, parse, parser, positive
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import towerdsl
from towerdsl.maps import mean_distance, pictures

MODELS = {"gpt": "gpt", "window": Path(__file__).with_suffix(".yaml")}
ADVICE = "Name a text of yours, in UTF-8, with --text; that of the plays is examples/data/tinyshakespeare.txt."
BATCH, RATE = 12, 3e-3


def main() -> None:
    options = parser(__doc__, epochs=4)
    options.add_argument("--text", type=Path, default=files.DATA / "tinyshakespeare.txt", help="what is read")
    options.add_argument("--vocab", type=positive, default=1000, help="tokens, at least 256 (default: 1000)")
    options.add_argument("--context", type=number(1, 4096), default=128, help="tokens read at once (default: 128)")
    options.add_argument("--heads", type=number(1, 64), default=4, help="of 32 features each (default: 4)")
    options.add_argument("--depth", type=number(1, 64), default=4, help="layers (default: 4)")
    options = parse(options)
    text = files.read(options.text, files.text, ADVICE)
    parts = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    pairs = texts.byte_pairs(parts[:1], options.vocab)
    train, held = (torch.tensor(pairs.encode(part).ids) for part in parts)
    if len(held) <= options.context:
        sys.exit(f"{options.text} is too short: its last tenth has {len(held)} tokens, --context more. {ADVICE}")

    sizes = {name: getattr(options, name) for name in ("context", "heads", "depth")}
    sizes |= {"d": 32 * options.heads, "vocab": pairs.get_vocab_size(), "norm_first": True}  # as later GPTs are
    print(towerdsl.diff(*MODELS.values(), **sizes))
    table = Table("", "parameters", "minutes", "nats per token", "per character", title="loss on the last tenth")
    table.add_row("nanoGPT", "800,000", "3", "", "1.88")
    losses, reach = (figure := Figure(figsize=(10, 4), layout="constrained")).subplots(1, 2)
    for color, (name, spec) in zip(("C0", "C1"), MODELS.items(), strict=True):
        torch.manual_seed(options.seed)
        model = towerdsl.compile(spec, **sizes)()
        history = fit(name, model, train, held, options)
        ids = texts.continued(model, pairs.encode("\n").ids, 150, options.context, options.seed)
        print(f"\n{name} writes:{pairs.decode(ids)}")

        loss, minutes = history[-1]["validation"], sum(epoch["seconds"] for epoch in history) / 60
        parameters = f"{sum(p.numel() for p in model.parameters()):,}"
        table.add_row(name, parameters, f"{minutes:.1f}", f"{loss:.3f}", f"{loss * len(held) / len(parts[1]):.3f}")
        for part, style in (("train", "o--"), ("validation", "o-")):
            losses.plot([math.nan, *(epoch[part] for epoch in history)], color + style, label=f"{name}, {part}")
        with torch.inference_mode(), towerdsl.probe(model, at="layer.*") as maps:
            model(texts.rows(held, options.context)[:8, :-1])
        for layer, one in enumerate(maps, 1):
            far = mean_distance(one).mean((0, 2))  # of each head
            reach.plot([layer] * len(far), far, color + "o", alpha=0.6, label=name if layer == 1 else None)
    losses.set(title="Loss", xlabel="epochs", ylabel="nats per token")
    losses.xaxis.get_major_locator().set_params(integer=True)
    reach.set(title="How far back each head looks", xlabel="layer", ylabel="tokens", xticks=range(1, options.depth + 1))
    for axes in (losses, reach):
        axes.legend()
    pictures.save(figure, options.folder / "word_model.png", dpi=120)
    Console().print(table, f"the losses, and how far each head looks: {options.folder / 'word_model.png'}")


def fit(name: str, model: nn.Module, train: Tensor, held: Tensor, options) -> list[dict[str, float]]:
    """Trains a model; for each epoch its losses, in nats per token, and how long it took."""
    steps = len(train) // (BATCH * options.context) + 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    schedule = one_cycle(optimizer, RATE, options.epochs * steps, cycle_momentum=False)
    run = Run(name, options, model, optimizer, schedule)
    for epoch in run.epochs(steps):
        start, total = time.monotonic(), 0.0
        rows = texts.rows(train, options.context, torch.Generator().manual_seed(1000 * options.seed + epoch))
        model.train()
        for batch in run.track(rows.split(BATCH)):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch) / len(rows)

        model.eval()
        rows = texts.rows(held, options.context)
        with torch.inference_mode():
            validation = sum(loss_of(model, batch).item() * len(batch) for batch in rows.split(BATCH)) / len(rows)
        run.record(train=total, validation=validation, seconds=time.monotonic() - start)
    model.eval()
    return run.history


def loss_of(model: nn.Module, rows: Tensor) -> Tensor:
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


if __name__ == "__main__":
    main()
