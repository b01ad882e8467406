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
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import files
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


def parser(doc: str, epochs: int) -> argparse.ArgumentParser:
    """The options that every program has; results go to a folder of the program's name."""
    default = Path("runs") / Path(sys.argv[0]).stem
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=positive, default=epochs, help=f"of each run (default: {epochs})")
    options.add_argument("--seed", type=number(0, 2**32 - 1), default=0, help="of the random numbers (default: 0)")
    options.add_argument("--folder", type=Path, default=default, help=f"where results go (default: {default})")
    options.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the folder")
    return options


def number(low: int, high: int) -> Callable[[str], int]:
    """What argparse takes for a whole number in this range."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text[:20]) <= high:
            raise argparse.ArgumentTypeError(f"a whole number from {low:,} to {high:,}, not {text[:20]}")
        return int(text)

    return read


positive = number(1, 1_000_000)


def one_cycle(optimizer: Optimizer, rate: float, steps: int, share: float = 0.1, **more: Any) -> OneCycleLR:
    """A rate that rises in a share of the steps and falls in the others; torch cannot let it rise in a single one."""
    return OneCycleLR(optimizer, rate, steps, pct_start=share + 0.01 * (share * steps == 1), **more)


def parse(options: argparse.ArgumentParser) -> argparse.Namespace:
    """The options given; the folder for results exists then, and Ctrl-C ends the program with one sentence."""
    chosen = options.parse_args()
    try:
        chosen.folder.mkdir(parents=True, exist_ok=True)
        (chosen.folder / "unfinished").touch()
        (chosen.folder / "unfinished").unlink()
    except OSError as error:
        sys.exit(f"Results cannot go to {chosen.folder} ({error.strerror}). Name another place with --folder.")
    begun = chosen.folder / "begun"
    if chosen.resume and not begun.exists():
        print(f"There is nothing to go on from in {chosen.folder}: it begins anew.")
    elif begun.exists() and not chosen.resume:
        print(f"{chosen.folder} has an earlier run: --resume goes on with it. It is kept until an epoch is done.")
    chosen.begun = begun.read_text() if chosen.resume and begun.exists() else str(time.time_ns())
    signal.signal(signal.SIGINT, lambda *_: sys.exit("\nStopped. --resume goes on from the last checkpoint."))
    return chosen


class Run:
    """One model in training; `history` is what was recorded in each epoch."""

    def __init__(self, name: str, options: argparse.Namespace, model: nn.Module, *others: Any, **of_run: Any):
        """others: the optimizer, and a schedule if there is one; of_run: what its options are, where it has its own."""
        self.name, self.folder, self.last = name, options.folder / name, options.epochs
        left_out = {"folder", "resume"}  # of these a run may have others when it goes on
        if len(others) == 1:  # without a schedule, which is made for so many epochs
            left_out.add("epochs")
        settings = vars(options) | of_run | {"model": type(model).__module__}  # which is named by its source
        self.settings = {key: str(value) for key, value in settings.items() if key not in left_out}
        self.history: list[dict[str, float]] = []
        self._model, self._others = model, others
        kept = max(self._kept(), key=lambda folder: folder.stat().st_mtime_ns, default=None)
        if kept and options.resume:
            self._load(kept)

    def epochs(self, steps: int = 1) -> Iterator[int]:
        """The numbers of the epochs that are left, each of so many steps; after each one a checkpoint is kept."""
        left = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        columns = (TextColumn("{task.description}"), BarColumn(16), TaskProgressColumn(), left)
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
        part, kept = self.folder / "unfinished", self.folder / f"epoch-{epoch}"
        try:
            self._write(part, kept)
        except files.UNREADABLE as error:  # a full disk is of as many kinds as there are writers
            sys.exit(
                f"The checkpoint {kept} cannot be written: {files.said(error)}. --resume goes on from the last one."
            )
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _write(self, part: Path, kept: Path) -> None:
        before = self._kept()
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_model(self._model, str(part / "model.safetensors"))
        states = [other.state_dict() for other in self._others]
        torch.save({"states": states, "random": torch.get_rng_state()}, part / "optimizer.pt")
        (part / "history.json").write_text(json.dumps({"settings": self.settings, "history": self.history}))
        (part / "begun").write_text(self.settings["begun"])
        (part / "begun").replace(self.folder.parent / "begun")  # at once: half of it would be another start
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
            settings, history = state["settings"], state["history"]
            if settings["begun"] != self.settings["begun"]:
                return  # it is of an earlier run, which had not come as far as this one when it was stopped
            differ = {key: value for key, value in settings.items() if self.settings.get(key) != value}
            other = ["another spec" if key == "model" else f"--{key} {value}" for key, value in differ.items()]
            if len(history) > self.last:
                other = [f"--epochs {len(history)}"]
            if other:
                sys.exit(f"{kept} was made with {', '.join(other)}. Go on with the same, or leave out --resume.")
            load_model(self._model, kept / "model.safetensors")
            optimizer = torch.load(kept / "optimizer.pt", weights_only=True)
            for other, kept_state in zip(self._others, optimizer["states"], strict=True):
                other.load_state_dict(kept_state)
            torch.set_rng_state(optimizer["random"])
            self.history = history
        except files.UNREADABLE as error:
            sys.exit(f"The checkpoint {kept} cannot be read: {files.said(error)}. Begin anew without --resume.")
