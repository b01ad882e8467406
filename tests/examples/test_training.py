"""What the training programs share: a run that was stopped ends like one that was not."""

import json

import pytest
import torch
from common import files, training
from safetensors.torch import load_file


@pytest.fixture(autouse=True)
def interrupts(monkeypatch):
    """Ctrl-C stays pytest's."""
    monkeypatch.setattr("signal.signal", lambda *_: None)


def options(folder, *more):
    """The options of a program that is started now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["program.py", "--folder", str(folder), *map(str, more)])
        return training.parse(training.parser("A program.", epochs=4))


def train(chosen, stop=None, schedule=False, steps=3, name="one"):
    """A layer with dropout learns; the run, which a stop ends in the middle of that epoch."""
    torch.manual_seed(chosen.seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    parts = [model, optimizer]
    if schedule:
        parts.append(torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, chosen.epochs * steps))
    run = training.Run(name, chosen, *parts)
    for epoch in run.epochs(steps):
        for _ in run.track(range(steps)):
            loss = model(torch.randn(8, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if epoch == stop:
                return run
            optimizer.step()
            if schedule:
                parts[2].step()
        run.record(loss=loss.item())
    return run


@pytest.mark.parametrize("schedule", [False, True])
def test_it_ends_as_if_it_had_never_been_stopped(tmp_path, schedule):
    whole = train(options(tmp_path / "whole"), schedule=schedule)
    train(options(tmp_path / "cut"), stop=2, schedule=schedule)
    assert [x.name for x in (tmp_path / "cut/one").iterdir()] == ["epoch-2"]
    run = train(options(tmp_path / "cut", "--resume"), schedule=schedule)
    assert run.history == whole.history and len(run.history) == 4
    one, other = (load_file(tmp_path / name / "one/epoch-4/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_is_done_is_not_run_again(tmp_path):
    done = train(options(tmp_path))
    assert train(options(tmp_path, "--resume"), stop=0).history == done.history
    assert len(train(options(tmp_path, "--epochs", 6, "--resume")).history) == 6


def test_without_resume_it_begins_anew_and_keeps_the_old_one_until_it_has_a_checkpoint(tmp_path, capsys):
    train(options(tmp_path), stop=3)
    train(options(tmp_path, "--epochs", 2), stop=0)
    assert f"{tmp_path} has an earlier run: --resume goes on with it." in capsys.readouterr().out
    assert [x.name for x in (tmp_path / "one").iterdir()] == ["epoch-3"]
    for _ in range(2):
        run = train(options(tmp_path, "--epochs", 1))
        assert len(run.history) == 1 and [x.name for x in (tmp_path / "one").iterdir()] == ["epoch-1"]


def test_what_was_stopped_while_it_was_written_is_no_checkpoint(tmp_path):
    train(options(tmp_path), stop=2)
    (tmp_path / "one/epoch-2").rename(tmp_path / "one/unfinished")
    assert len(train(options(tmp_path, "--resume")).history) == 4


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "history.json"])
@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, name, damage):
    train(options(tmp_path), stop=1)
    file = tmp_path / "one/epoch-1" / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:20] if damage == "cut" else b"\x80\x04other bytes")
    with pytest.raises(SystemExit) as stopped:
        train(options(tmp_path, "--resume"))
    said = str(stopped.value)
    assert str(file.parent) in said and "Begin anew without --resume" in said and "\n" not in said


def test_another_seed_or_schedule_is_refused(tmp_path):
    train(options(tmp_path, "--seed", 1), stop=1)
    with pytest.raises(SystemExit, match=r"was made with --seed 1\. Go on with the same"):
        train(options(tmp_path, "--resume"))
    train(options(tmp_path), stop=1, schedule=True)
    with pytest.raises(SystemExit, match="was made with --epochs 4"):
        train(options(tmp_path, "--epochs", 5, "--resume"), schedule=True)


def test_pickles_that_run_code_are_refused(tmp_path):
    train(options(tmp_path), stop=1)
    kept = tmp_path / "one/epoch-1"

    class Malicious:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save(Malicious(), kept / "optimizer.pt")
    with pytest.raises(SystemExit):
        train(options(tmp_path, "--resume"))
    assert not (tmp_path / "ran").exists()


def test_text_and_what_is_not(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "bytes.txt").write_bytes(bytes(range(256)))
    (tmp_path / "cut.xz").write_bytes((files.DATA / "verses.en.xz").read_bytes()[:1000])
    for name in ("missing.txt", "empty.txt", "bytes.txt", "cut.xz", "."):
        with pytest.raises(SystemExit) as stopped:
            files.read(tmp_path / name, files.text, "Get it there.")
        assert str(stopped.value).endswith("Get it there.") and "\n" not in str(stopped.value)
    assert files.read(files.DATA / "verses.en.xz", files.text, "").startswith("In the beginning God created")


def test_history_is_json(tmp_path):
    train(options(tmp_path))
    kept = json.loads((tmp_path / "one/epoch-4/history.json").read_text())
    assert kept["settings"]["seed"] == "0" and len(kept["history"]) == 4


def test_of_two_runs_only_those_of_one_start_go_on(tmp_path, capsys):
    """The second one was stopped before it came to what the first one had finished."""
    for name in ("one", "two"):
        train(options(tmp_path, "--epochs", 2), name=name, schedule=True)
    train(options(tmp_path), stop=2, schedule=True)
    chosen = options(tmp_path, "--resume")
    assert len(train(chosen, schedule=True).history) == 4
    assert len(train(chosen, name="two", stop=0, schedule=True).history) == 1
    assert "go on" not in capsys.readouterr().out.rpartition("two")[2]


def test_nothing_to_go_on_from(tmp_path, capsys):
    train(options(tmp_path / "other", "--resume"))
    assert "There is nothing to go on from" in capsys.readouterr().out


def test_fewer_epochs_than_it_has_are_refused(tmp_path):
    train(options(tmp_path))
    with pytest.raises(SystemExit, match="was made with --epochs 4"):
        train(options(tmp_path, "--epochs", 2, "--resume"))


def test_another_model_is_refused(tmp_path):
    import towerdsl

    spec = "tower: t\ninputs: {x: 'float[b, n]'}\noutputs: linear(x, %s, name=one)"
    for width in (3, 4):
        model = towerdsl.compile((spec % width).replace("[b, n]", "[b, 3]"))()
        chosen = options(tmp_path, *["--resume"] * (width == 4))
        if width == 4:
            with pytest.raises(SystemExit, match="was made with another spec"):
                training.Run("one", chosen, model, torch.optim.SGD(model.parameters()))
        else:
            run = training.Run("one", chosen, model, torch.optim.SGD(model.parameters()))
            assert len(list(run.epochs())) == 4


@pytest.mark.parametrize("bad", [*(f"--epochs={x}" for x in ("0", "-3", "x", "1.5")), f"--seed={10**30}", "--seed=-1"])
def test_bad_numbers(tmp_path, bad, capsys):
    with pytest.raises(SystemExit):
        options(tmp_path, bad)
    assert "a whole number from" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(SystemExit, match="Results cannot go to"):
            options(folder)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, error):
    train(options(tmp_path), stop=2)

    def fail(what, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as stopped:
        train(options(tmp_path, "--resume"))
    if isinstance(error, OSError):
        assert "epoch-3 cannot be written: [Errno 28] No space left on device. --resume" in str(stopped.value)
    assert [x.name for x in (tmp_path / "one").iterdir()] == ["epoch-2"]


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 100])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_a_rate_for_any_number_of_steps(steps, share):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = training.one_cycle(optimizer, 0.1, steps, share)
    for _ in range(steps):
        assert 0 < optimizer.param_groups[0]["lr"] <= 0.1 + 1e-9
        optimizer.step()
        schedule.step()
