"""What the programs that train share: their options, a progress bar, and a checkpoint after each epoch to go on from.

A loop stays a loop of PyTorch:

    options = parse(parser(__doc__, epochs=20))
    torch.manual_seed(options.seed)
    model = towerdsl.compile("gpt")()
    run = Run("gpt", options, model, optimizer)
    for epoch in run.epochs(steps=len(batches)):
        for x, y in run.track(batches):
            ...
        run.record(loss=loss.item())

FOLDER/gpt/epoch-7 then holds what there is after seven epochs: model.safetensors, optimizer.pt (the states of the
optimizer, the schedule and the random numbers) and history.json. With --resume a run goes on after the last epoch that
was kept, and ends as if it had never been stopped.
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import files
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from safetensors.torch import load_model, save_model


def parser(doc: str, epochs: int) -> argparse.ArgumentParser:
    """The options that every program has; results go to a folder of the program's name."""
    default = Path("runs") / Path(sys.argv[0]).stem
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=positive, default=epochs, help=f"of each run (default: {epochs})")
    options.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    options.add_argument("--folder", type=Path, default=default, help=f"where results go (default: {default})")
    options.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the folder")
    return options


def positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"a number from 1 on, not {text}")
    return int(text)


def parse(options: argparse.ArgumentParser) -> argparse.Namespace:
    """The options given; the folder for results exists then, and Ctrl-C ends the program with one sentence."""
    chosen = options.parse_args()
    try:
        chosen.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"Results cannot go to {chosen.folder} ({error.strerror}). Name another place with --folder.")
    signal.signal(signal.SIGINT, lambda *_: sys.exit("\nStopped. --resume goes on from the last checkpoint."))
    return chosen


class Run:
    """One model in training; `history` is what was recorded in each epoch."""

    def __init__(self, name: str, options: argparse.Namespace, model: torch.nn.Module, *others: Any):
        """others: the optimizer, and a schedule if there is one"""
        self.name, self.folder, self.last = name, options.folder / name, options.epochs
        left_out = {"epochs", "folder", "resume"}  # of these a run may have others when it goes on
        if len(others) > 1:  # a schedule is made for so many epochs
            left_out.remove("epochs")
        self.settings = {key: str(value) for key, value in vars(options).items() if key not in left_out}
        self.history: list[dict[str, float]] = []
        self._model, self._others = model, others
        kept = max(self._kept(), key=lambda folder: folder.stat().st_mtime_ns, default=None)
        if kept and options.resume:
            self._load(kept)
        elif kept and not kept.name.endswith(f"-{self.last}"):
            print(
                f"{kept} is of a run that was stopped: with --resume it would go on. It is kept until epoch 1 is done."
            )

    def epochs(self, steps: int = 1) -> Iterator[int]:
        """The numbers of the epochs that are left, each of so many steps; after each one a checkpoint is kept."""
        time = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        columns = (TextColumn("{task.description}"), BarColumn(16), TaskProgressColumn(), time)
        with Progress(*columns, TextColumn("{task.fields[note]}")) as self._bar:
            done = len(self.history)
            self._task = self._bar.add_task(self.name, total=self.last * steps, completed=done * steps, note="")
            for epoch in range(done, self.last):
                self.history.append({})
                yield epoch
                self._save(epoch + 1)
                self._bar.update(self._task, completed=(epoch + 1) * steps)

    def track(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of an epoch, each a step of the bar."""
        for batch in batches:
            yield batch
            self._bar.advance(self._task)

    def record(self, **numbers: float) -> None:
        """Keeps numbers with the epoch, and shows them."""
        self.history[-1] |= numbers
        note = "  ".join(f"{name} {value:.4g}" for name, value in self.history[-1].items())
        self._bar.update(self._task, note=note)

    def _kept(self) -> list[Path]:
        return list(self.folder.glob("epoch-*[0-9]"))

    def _save(self, epoch: int) -> None:
        # A folder has its name only while all is in it: what is stopped half way is never taken for a checkpoint.
        part, kept, before = self.folder / "unfinished", self.folder / f"epoch-{epoch}", self._kept()
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_model(self._model, str(part / "model.safetensors"))
        states = [other.state_dict() for other in self._others]
        torch.save({"states": states, "random": torch.get_rng_state()}, part / "optimizer.pt")
        (part / "history.json").write_text(json.dumps({"settings": self.settings, "history": self.history}))
        if kept in before:  # of an earlier run
            self._remove(kept)
        part.rename(kept)
        for older in set(before) - {kept}:
            self._remove(older)

    def _remove(self, kept: Path) -> None:
        aside = self.folder / "removed"
        shutil.rmtree(aside, ignore_errors=True)
        kept.rename(aside)
        shutil.rmtree(aside)

    def _load(self, kept: Path) -> None:
        try:
            state = json.loads((kept / "history.json").read_text())
            settings, self.history = state["settings"], state["history"]
            other = [f"--{key} {value}" for key, value in settings.items() if self.settings.get(key) != value]
            if other:
                sys.exit(f"{kept} was made with {', '.join(other)}. Go on with the same, or leave out --resume.")
            load_model(self._model, kept / "model.safetensors")
            optimizer = torch.load(kept / "optimizer.pt", weights_only=True)
            for other, kept_state in zip(self._others, optimizer["states"], strict=True):
                other.load_state_dict(kept_state)
            torch.set_rng_state(optimizer["random"])
        except files.UNREADABLE as error:
            sys.exit(f"The checkpoint {kept} cannot be read: {files.said(error)}. Begin anew without --resume.")
