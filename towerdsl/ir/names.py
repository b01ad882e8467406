"""Names of a spec --> names in Python: every name in an emitted file is decided here.

A name stays as it is wherever Python and torch allow it. Elsewhere it gets `_` behind it, until it is free.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Container, Iterable

#: What emitted modules import, by the names that their code uses.
IMPORTED = frozenset({"torch", "nn", "F", "math", "Tensor", "NamedTuple"})
#: The builtins that emitted methods call.
BUILTINS = frozenset("abs bool float int len max min next range round slice super tuple zip".split())
#: Classes of `towerdsl.runtime`: a file that stands alone has copies of them.
RUNTIME = frozenset(
    """Attend GradientsOfAttend InferenceModel Interval Normalizer PackedLinear Packing PairDot Pairs Reading
    SoftmaxOfRows Stack Tiles WeightedSum CACHED FEW KEPT_BYTES KEPT_RESULTS MANY SPREAD STACKED TOGETHER""".split()
)
#: What a method calls what it is given first.
METHOD = frozenset({"self"})
#: The variables of an attention: one head's query, key and value, the average, and the log of a drawn choice.
ATTENTION = ("q", "k", "v", "y", "log_prob")
#: Attributes of an `nn.Module`, and those that emitted models and their probes have besides: no parameter hides them.
MODULE = frozenset(
    """T_destination add_module apply bfloat16 buffers call_super_init checkpoints children compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half inputs ipu
    like load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ reset_parameters seen set_extra_state set_submodule share_memory
    state_dict tied to to_empty train training type xpu zero_grad
    _apply _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl _forward_hooks
    _forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks _forward_pre_hooks_with_kwargs
    _get_backward_hooks _get_backward_pre_hooks _get_name _is_full_backward_hook _load_from_state_dict
    _load_state_dict_post_hooks _load_state_dict_pre_hooks _maybe_warn_non_full_backward_hook _modules _named_members
    _non_persistent_buffers_set _parameters _register_load_state_dict_pre_hook _register_state_dict_hook
    _replicate_for_data_parallel _save_to_state_dict _slow_forward _state_dict_hooks _state_dict_pre_hooks _version
    _wrapped_call_impl""".split()
)


def free(name: str, taken: Container[str] = ()) -> str:
    """The name, with `_` behind it where it is a word of Python or taken.

    Classes change names that begin with two underscores: these begin with none.
    """
    while keyword.iskeyword(name) or name in taken or name.startswith("__"):
        plain = name.lstrip("_")
        plain = f"_{plain}" if plain[:1].isdigit() else plain
        name = f"{name}_" if plain and not name.startswith("__") else plain or "x"
    return name


def unused(name: str, taken: Container[str], between: str = "_") -> str:
    """The name, with a number behind it where it is taken: `size`, `size_2`."""
    base, number = name, 1
    between = "" if base.endswith("_") else between  # what begins with two underscores would be changed in a class
    while name in taken:
        number += 1
        name = f"{base}{between}{number}"
    return name


def chosen(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Names --> names of their own in Python; those that can stay as they are come before those that cannot."""
    names, used = list(dict.fromkeys(names)), set(taken)
    found = {name: name for name in names if free(name, used) == name}
    used |= found.keys()
    for name in names:
        if name not in found:
            found[name] = free(name, used)
            used.add(found[name])
    return {name: found[name] for name in names}


def arguments(names: Iterable[str]) -> dict[str, str]:
    """The arguments of `forward`: inputs of a model, or parameters of a block."""
    return chosen(names, IMPORTED | BUILTINS | METHOD)


def attributes(names: Iterable[str]) -> dict[str, str]:
    """The attributes of a class: the parameters and modules that a spec names in one block."""
    return chosen(names, MODULE)


def fields(names: Iterable[str]) -> dict[str, str]:
    """The fields of the named tuple that a model returns. None of them begins with `_`."""
    return chosen(names, ())


def class_name(name: str, taken: Container[str] = ()) -> str:
    """`feed_forward` --> `FeedForward`; a number behind it where another class has it.

    A name that the module needs for something else, such as `F`, gets a `_` behind it.
    """
    found = "".join(part[:1].upper() + part[1:] for part in name.split("_") if part)
    found = found if found.isidentifier() else f"Model{found}"
    while keyword.iskeyword(found) or found in IMPORTED | RUNTIME or hasattr(builtins, found):
        found += "_"
    return unused(found, taken, "")


class Variables:
    """The names in one method: of the spec's variables, which come first, and of those that the emitter makes up."""

    def __init__(self, spec: Iterable[str], own: Iterable[str] = (), reserved: Iterable[str] = ()) -> None:
        """`own` are those of the emitter that are what they are, `reserved` what the method uses besides."""
        own = list(own)
        self.reserved = IMPORTED | BUILTINS | METHOD | frozenset(reserved)
        self.known = chosen((x for x in spec if x not in own), self.reserved | frozenset(own))
        self.known |= {name: name for name in own}
        self.taken = set(self.known.values())

    def of(self, name: str) -> str:
        """The Python name of a variable, of the spec or made up."""
        return self.known[name] if name.isidentifier() else name  # `pairs.key` is code already

    def fresh(self, wish: str) -> str:
        """A name that is not in use."""
        name = unused(free(wish, self.reserved), self.taken | self.reserved)
        self.taken.add(name)
        self.known[name] = name
        return name
