"""Source --> a Python module: what is read is what is run.

The source is registered with `linecache`, so that tracebacks and `inspect` show its lines, and the module with
`sys.modules`, so that instances can be pickled in the process that made them.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from types import ModuleType


def load_module(source: str, name: str) -> ModuleType:
    """Execute emitted source as a module of its own."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    full_name = f"towerdsl.compiled.{name}_{digest}"
    if full_name in sys.modules:
        return sys.modules[full_name]
    filename = f"<towerdsl {name} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = ModuleType(full_name)
    module.__file__ = filename
    module.__dict__["__source__"] = source
    sys.modules[full_name] = module
    try:
        exec(compile(source, filename, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[full_name]
        raise
    return module
