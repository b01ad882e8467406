"""What a compile leaves behind: nothing that nobody holds, and no other limits than before."""

from __future__ import annotations

import copy
import gc
import inspect
import linecache
import pickle
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import towerdsl
from towerdsl.compiler import COMPILED, deep
from towerdsl.maps import scaled_heads

SPEC = """
tower: kept
sizes: {d: 4, wide: 5}
inputs:
  x: float[b, n, d]
blocks:
  look(x):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, wide)
flow:
  - x = look(x)
outputs: {first: x, twice: 2 * x}
"""
X = torch.ones(1, 3, 4)


def left() -> set[str]:
    """What there is of compiled modules, when all that nobody holds is gone."""
    gc.collect()
    found = {name for name in [*sys.modules, *linecache.cache] if "towerdsl" in name and "kept" in name}
    return found | {x.__name__ for x in COMPILED if x.__name__ == "Kept"}


def test_what_nobody_holds_is_forgotten():
    before = left()
    classes = [towerdsl.compile(SPEC, wide=wide) for wide in range(1, 4)]
    assert len({c.__module__ for c in classes}) == 3 <= len(left() - before)
    del classes
    assert left() == before


def test_an_old_entry_leads_to_what_was_loaded_anew():
    """torch's compiler asks it, by a name that is the same for the same source."""
    entry = sys.modules[towerdsl.compile(SPEC, wide=6).__module__]
    gc.collect()
    with pytest.raises(AttributeError, match="nobody has"):
        entry.nn  # noqa: B018
    again = towerdsl.compile(SPEC, wide=6)
    assert sys.modules[again.__module__] is not entry
    assert entry.nn is nn and entry.Kept is again


def used(*uses: Callable[[nn.Module], Any]) -> None:
    model = towerdsl.compile(SPEC)()
    for use in uses:
        use(model)


def probed(model: nn.Module) -> None:
    with towerdsl.probe(model):
        model(X)


def saved(path: Path) -> Callable[[nn.Module], Any]:
    def both(model: nn.Module) -> None:
        towerdsl.save_checkpoint(model, path)
        towerdsl.load_checkpoint(model, path)

    return both


def test_nothing_that_is_done_with_a_model_keeps_it(tmp_path):
    before = left()
    used(lambda m: m(X).first.sum().backward(), copy.deepcopy, lambda m: inspect.getsource(type(m)))
    used(probed, lambda m: towerdsl.verify(m, {"x": X}), saved(tmp_path / "m.safetensors"))
    assert left() == before


def test_a_part_keeps_the_module_that_it_is_of():
    part = towerdsl.compile(SPEC)().look
    assert left()
    made = sys.modules[type(part).__module__].Kept()  # its globals are all there
    assert made(X).first.shape == (1, 3, 5)
    assert towerdsl.compile(SPEC) is type(made)
    with pytest.raises(RuntimeError) as error:
        part(torch.ones(1, 3, 7))
    assert "q = self.query(x)" in "".join(traceback.format_exception(error.value))
    assert "q = self.query(x)" in inspect.getsource(type(part))
    assert inspect.getmodule(part) is sys.modules[type(part).__module__]


def test_what_was_pickled_is_read_again_though_nobody_holds_its_class():
    model = towerdsl.compile(SPEC, wide=3)()
    data, known = pickle.dumps(model), weakref.ref(model)
    del model
    gc.collect()
    assert known() is None
    again = pickle.loads(data)
    assert again(X).first.shape == (1, 3, 3)
    assert type(pickle.loads(pickle.dumps(again(X)))) is type(again(X))


def test_one_source_in_threads_is_one_class():
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: towerdsl.compile(SPEC), range(8)))) == 1


# --- the limit of recursion --------------------------------------------------------------------------------------


@pytest.fixture
def limit():
    before = sys.getrecursionlimit()
    yield before
    sys.setrecursionlimit(before)


def test_the_limit_is_what_it_was_after_uses_that_overlap(limit):
    first, second = deep(), deep()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getrecursionlimit() >= 10_000  # the second still needs it
    second.__exit__(None, None, None)
    assert sys.getrecursionlimit() == limit
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda k: towerdsl.compile(SPEC, wide=k + 1), range(12)))
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("own", [500, 1234, 10_000, 20_000])
def test_a_limit_that_is_set_meanwhile_stays(limit, own):
    with deep():
        with deep():
            sys.setrecursionlimit(own)
        assert sys.getrecursionlimit() == own
        with deep():
            assert sys.getrecursionlimit() >= 10_000
    assert sys.getrecursionlimit() == own
    with pytest.raises(ValueError, match="as it was"), deep():
        raise ValueError("as it was")
    assert sys.getrecursionlimit() == own


def test_a_thread_that_is_deep_is_not_stopped_by_another_that_is_done(limit):
    inside, done, found = threading.Event(), threading.Event(), []

    def down(k: int) -> int:
        return 0 if not k else 1 + down(k - 1)

    def long() -> None:
        with deep():
            inside.set()
            done.wait(60)
            found.append(down(5000))

    thread = threading.Thread(target=long)
    with deep():
        thread.start()
        inside.wait(60)
    done.set()
    thread.join()
    assert found == [5000] and sys.getrecursionlimit() == limit


# --- copies that are made inside a context -----------------------------------------------------------------------


def hooks(model: nn.Module) -> list[object]:
    each = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs")
    found = [hook for m in model.modules() for name in each for hook in getattr(m, name).values()]
    return found + [m.forward for m in model.modules() if "forward" in vars(m)]


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, pickled, lambda m: copy.deepcopy([m, m])[1]], ids=["copy", "pickle", "list"]
)
@pytest.mark.parametrize("gradients", [False, True])
def test_a_copy_that_is_made_inside_a_probe_is_a_model_like_any(copied, gradients):
    model = towerdsl.compile(SPEC)().eval()
    own = model.look.query.register_forward_hook(print_nothing)
    with towerdsl.probe(model, gradients=gradients) as maps:
        model(X)
        twin = copied(model)
        twin(X)
        assert len(maps) == 1
        model(X)
        assert len(maps) == 2
    assert not hooks(model)[1:]
    found = weakref.ref(maps[0])
    del maps
    gc.collect()
    assert found() is None  # the copy does not keep it
    assert twin(X).first.equal(model(X).first) and twin.look.query.weight is not model.look.query.weight
    if copied is not pickled:
        assert hooks(twin) == [print_nothing]
        with towerdsl.probe(twin) as again:
            twin(X)
        assert len(again) == 1
    own.remove()


def print_nothing(*_: object) -> None:
    """A hook of the user's own, which stays."""


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["copy", "pickle"])
def test_a_copy_that_is_made_with_scaled_heads_has_its_own(copied):
    model = towerdsl.compile(SPEC.replace("value: linear(x, wide)", "value: linear(x, d)\n    heads: 2"))().eval()
    y = model(X).first
    with scaled_heads(model, {"look": torch.zeros(2)}):
        twin = copied(model)
        assert twin(X).first.equal(y) and not model(X).first.equal(y)
    with torch.no_grad():
        model.look.value.weight.zero_()
    assert twin(X).first.equal(y)
    assert copied is pickled or not hooks(twin)
    with scaled_heads(twin, {"look": torch.zeros(2)}):
        assert not twin(X).first.any()
    assert twin(X).first.equal(y)
