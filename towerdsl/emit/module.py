"""Source --> a Python module: what is read is what is run.

The source is registered with `linecache`, so that tracebacks and `inspect` show its lines, and the module with
`sys.modules`, so that instances can be pickled in the process that made them. Both forget it once nobody has a class or
a function of it.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
import threading
import weakref
from collections import deque
from types import ModuleType
from typing import Any

#: What the names of these modules begin with.
COMPILED_AS = "towerdsl.compiled."

_LOADING = threading.RLock()
#: Modules that nobody has any more, each with its file.
_GONE: deque[tuple[_Entry, str]] = deque()


class _Entry(ModuleType):
    """What `sys.modules` has of a module: it leads to the module, and does not keep it.

    Who holds an entry longer, as torch's compiler does, is led to the module of this name that is there now. And who
    asks for a class by its name is `pickle`, and may ask again when nobody has one: then it is kept.
    """

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__name__)
        self.__file__ = module.__file__
        self.module = weakref.ref(module)
        self.kept: ModuleType | None = None

    def alive(self) -> ModuleType | None:
        """The module, or the one that was loaded anew from the same source."""
        there = sys.modules.get(self.__name__)
        return self.module() or (there.module() if isinstance(there, _Entry) else None)

    def __getattr__(self, name: str) -> Any:
        module = self.alive()
        if module is None:
            raise AttributeError(f"nobody has a class of {self.__name__} any more")
        found = getattr(module, name)
        if isinstance(found, type) and found.__module__ == self.__name__:
            self.kept = module
        return found

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        module = self.alive()
        return {} if module is None else module.__dict__


def load_module(source: str, name: str) -> ModuleType:
    """Execute emitted source as a module of its own; the same source gives the same module while somebody has it."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    full_name, filename = f"{COMPILED_AS}{name}_{digest}", f"<towerdsl {name} {digest}>"
    with _LOADING:
        _forget()
        there = sys.modules.get(full_name)
        known = there.module() if isinstance(there, _Entry) else None
        if known is not None:
            return known
        module = ModuleType(full_name)
        module.__file__ = filename
        module.__dict__["__source__"] = source
        module.__dict__["__self__"] = module  # what has a class or a function of it has its globals, and so itself
        entry = _Entry(module)
        sys.modules[full_name] = entry
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        weakref.finalize(module, _gone, entry, filename).atexit = False
        exec(compile(source, filename, "exec"), module.__dict__)
    return module


def _gone(entry: _Entry, filename: str) -> None:
    """Called wherever garbage is collected, so it does not wait: who is loading forgets the next time."""
    _GONE.append((entry, filename))
    if _LOADING.acquire(blocking=False):
        try:
            _forget()
        finally:
            _LOADING.release()


def _forget() -> None:
    while _GONE:
        entry, filename = _GONE.popleft()
        if sys.modules.get(entry.__name__) is entry:  # not one that was loaded anew
            del sys.modules[entry.__name__]
            linecache.cache.pop(filename, None)
