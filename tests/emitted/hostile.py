"""Specs whose names are drawn from those that Python, torch and emitted source use: they run as the plain ones do.

In a spec of `SPECS`, `@x` is a name that may become another one, the same wherever it stands.
"""

import builtins
import inspect
import keyword
import random
import re
from functools import cache

import torch
from torch import Tensor, nn

import towerdsl
from towerdsl.compiler import compile_spec
from towerdsl.emit.helpers import helpers
from towerdsl.emit.module import load_module
from towerdsl.ir.names import ATTENTION, class_name
from towerdsl.kernels.catalog import CATALOG
from towerdsl.runtime.linear import InferenceModel

from .running import TOLERANCE, inputs
from .running import _lengths as lengths_of

MADE = """
    q k v y log_prob x_1 size_2 part rows held average bias mask visible weights score chosen total empty count kv
    left right message index offset term inside wide like seen inputs tied checkpoints key_2 query_linear head_dim
    features i_blocks j_blocks pairs biased shown b h all_x n_2 position last keys groups length i_h j_w batch
    linear_2 query key value output heads size slice stop start shape device dtype weight bias_2 self cls torch nn F
    f math Tensor NamedTuple norm table annotations tensor T_output TOutput t_output TowerOutput Tower tower result
    model module Model x_ x__ n_ size std eps
""".split()
WORDS = """
    linear embed sum mean range zeros softmax dot window causal relative rope unit layernorm dropout conv float int
    bool relation tower blocks flow params over outputs name axis along for in scaled_dot true null yes on off
""".split()
POOLS = {
    "python": [*keyword.kwlist, *keyword.softkwlist],
    "builtins": [x for x in dir(builtins) if x.isidentifier()],
    "torch": ["torch", "nn", "F", "math", "Tensor", "NamedTuple", "self", "T", "cuda", "f", "Parameter", "functional"],
    "module": sorted({*dir(nn.Module()), *dir(nn.ModuleList()), *dir(InferenceModel), "checkpoints", "inputs", "seen"}),
    "helpers": sorted(helpers()),
    "tuples": ["count", "index", "_a", "_fields", "_asdict", "_replace", "_make", "_field_defaults", "_source"],
    "made": MADE,
    "language": WORDS,
    "cases": ["my_block", "myBlock", "MyBlock", "my__block", "MYBLOCK", "my_block_", "_my_block", "My_Block"],
    "behind": ["train", "train_", "train__", "def", "def_", "def__", "range", "range_", "range__", "F", "F_", "f"],
    "long": ["x" * 100, "a" * 99, "a" * 98 + "b", "_" + "z" * 90, "Ab" * 50, "l" * 101],
    "lines": ["_", "_1", "_x", "x_", "_x_", "___", "__x", "_0"],
}  # fmt: skip

SPECS = {
    "attention": """
tower: @model
sizes: {@d: 8, @heads: 2, @reach: 2}
define:
  @near(@r): abs(i - j) <= @r
inputs:
  @x: float[@b, @n, @d]
  @keep: bool[@b, @n] = true
blocks:
  @look(@z, @seen):
    params: {@table: "float[@heads, 2 * @reach + 1]"}
    modules: {@mix: "linear(@d)"}
    let:
      - @u = @mix(@z) + 1
    query: linear(@u, @d)
    key: linear(@z, @d, name=@up)
    value: linear(@u, @d)
    heads: @heads
    score: dot(q, k) / sqrt(dk) + relative(@table, @reach)
    mask: @seen[j] and @near(3)
    output: linear(y, @d)
outputs: @look(@x, @keep)
""",
    "sums": """
tower: @model
sizes: {@d: 4, @heads: 2}
inputs:
  @x: float[@b, @n, @d]
  @keep: bool[@b, @n] = true
blocks:
  @look(@z):
    query: linear(@z, @d)
    key: linear(@z, @d)
    value: @z
    heads: @heads
    score: dot(q ** 2, k ** 2)
    normalize: sum
    mask: j <= i
  @other(@z, @seen):
    query: @z
    key: @z
    value: @z
    score: dot(q, k)
    normalize: count
    mask: @seen[j]
flow:
  - @x = @look(@x)
  - @p = @other(@x, @keep)
outputs: {@first: @x, @second: @p}
""",
    "picks": """
tower: @model
sizes: {@d: 4}
inputs: {@x: "float[@b, @n, @d]", @w: "float[@n, @d]"}
blocks:
  @few(@z, @g):
    query: @z
    key: @z + @g
    value: @z
    normalize: topk(k=2)
    score: dot(q, k) + 0.1 * (i - j)
  @one(@z):
    let:
      - @l = linear(@z, @d)
      - for @t in 2:
          - @l = @l + linear(@z, @d, name=@up)
    query: @l
    key: @z
    value: @z
    normalize: hard(score_function)
    output: [y, log_prob]
flow:
  - @x = @few(@x, @w)
  - @a, @p = @one(@x)
outputs: [@x, @a, @p]
""",
    "edges": """
tower: @model
sizes: {@d: 4, @heads: 2}
inputs: {@x: "float[@n, @d]", @links: "relation[@n, @n]", @near: "relation[@n, @n]"}
blocks:
  @look(@z, @e, @f):
    params: {@left: "float[@heads, dk]", @right: "float[@heads, dk]"}
    query: linear(@z, @d)
    key: linear(@z, @d)
    value: @z
    heads: @heads
    score: leaky_relu(dot(@left, q) + dot(@right, k))
    mask: @e[j, i] or @f[j, i] or i == j
outputs: @look(@x, @links, @near)
""",
    "loops": """
tower: @model
sizes: {@d: 4, @depth: 2, @widths: [4, 8]}
inputs: {@x: "float[@b, @n, @d]"}
blocks:
  @layer(@z, @w):
    - @s = linear(@z, @w, name=@up)
    - @z + linear(gelu(@s), @d, name=@down)
  @plain(@z):
    - layernorm(@z)
flow:
  - for @l in @depth:
      - for @m in 2:
          - @x = @layer(@x, @widths[@m])
      - @x = @plain(@x) + @l
  - for @k in 2:
      - if @k == 1:
          - @x = linear(@x, @d)
outputs: @x
""",
    "steps": """
tower: @model
sizes: {@d: 4}
inputs: {@x: "float[@b, @n, @d]"}
blocks:
  @cell(@h, @z):
    - @s = @h + linear(@z, @d)
    - return tanh(@s), @s * 2
flow:
  - @state = zeros([@b, @d])
  - for @t along @n:
      - @state, @extra = @cell(@state, @x[@n=@t])
      - @new = @state + @extra
      - @number = @t + 1
outputs: {@one: @state, @two: @new, @three: @number}
""",
    "left out": """
tower: @model
sizes: {@d: 4, @vocab: 7}
inputs:
  @ids: int[@b, @n]
  @kind: int[@b, @n] = 0
  @scale: float[@b, @n] = 1
  @keep: bool[@b, @n] = true
blocks:
  @look(@z, @seen):
    query: @z
    key: @z
    value: @z
    mask: @seen[j]
flow:
  - @h = embed(@ids, @vocab, @d, name=@words) + embed(@kind, 3, @d) + embed(range(@n), 20, @d)
  - @h[@b, @n, @d] = rearrange(rearrange(@h, "@b @n @d -> @d @b @n") * @scale, "@d @b @n -> @b @n @d")
  - @h = @look(@h, @keep)
outputs: @h
""",
    "windows": """
tower: @model
sizes: {@c: 4, @win: 2, @heads: 2, @shift: 1}
inputs: {@x: "float[@b, @h, @w, @c]"}
blocks:
  @look(@z, @s):
    params: {@table: "float[2 * @win - 1, 2 * @win - 1, @heads]"}
    query: linear(@z, @c)
    key: linear(@z, @c)
    value: linear(@z, @c)
    over: [@h, @w]
    heads: @heads
    score: dot(q, k) + @table[i.@h - j.@h + @win - 1, i.@w - j.@w + @win - 1, head]
    locality: shifted_blocks(i.@h, j.@h, @win, @s) and shifted_blocks(i.@w, j.@w, @win, @s)
flow:
  - @x = @look(@x, 0) + @look(@x, @shift)
outputs: @x
""",
    "bands": """
tower: @model
sizes: {@d: 4}
inputs: {@x: "float[@b, @n, @d]", @y2: "float[@b, @n, @d]"}
blocks:
  @look(@q2, @k2, @far):
    query: linear(@q2, @d)
    key: linear(@k2, @d)
    value: @q2
    locality: abs(i - j) < @far
    output: linear(y, @d)
  @pool(@z):
    value: @z
    score: sum(v)
  @wide(@z):
    query: @z
    key: @z
    value: @z
    score: dot(q, k) - abs(i - j)
    mask: j <= i
flow:
  - @x = @look(@x, @y2, 2) + @look(@y2, @x, 3)
  - @x = @wide(@x)
outputs: [@x, @pool(@x)]
""",
    "shared": """
tower: @model
sizes: {@d: 4, @vocab: 7, @depth: 2}
inputs: {@ids: "int[@b, @n]"}
params: {@scale: "float[@d] = ones", @other: "float[@d]"}
modules: {@words: "embed(@vocab, @d)", @again: @step}
blocks:
  @step(@z):
    params: {@gain: "float[@d]"}
    modules: {@inner: "linear(@d)"}
    flow:
      - @z + @inner(gelu(linear(@z, @d))) * @gain
flow:
  - @h = @words(@ids) * @scale + @other
  - for @l in @depth:
      - @h = @again(@h)
outputs: dot(@h, @words.weight)
checkpoints:
  @public:
    @wte.weight: @words.weight
    @wide.gain: @again.@gain
    inner.{@p}: @again.@inner.{@p}
    linear.{@p}: @again.linear.{@p}
    norm.@key: @scale
    @key2: @other
""",
    "pictures": """
tower: @model
sizes: {@c: 4, @kind: "one_of('a', 'b')"}
inputs: {@x: "float[@b, @c, @h, @w]"}
blocks:
  @part(@z, @count):
    - for @l in @count:
        - @z = relu(batchnorm(conv(@z, @c, 3, padding=1, bias=false)))
    - @z + conv(@z, @c, 1)
flow:
  - @x = @part(@x, 1)
  - @x = @part(@x, 2)
  - if @kind == 'a':
      - @x = max_pool(@x, 2)
  - @x[@b, @m, @c] = rearrange(@x, "@b @c @h2 @w2 -> @b (@h2 @w2) @c")
outputs: @x
""",
    "recurrent": """
tower: @model
sizes: {@d: 4}
inputs: {@x: "float[@b, @n, @d]"}
flow:
  - @forward1 = lstm(@x, @d)
  - @backward = flip(gru(flip(@x, @n), @d, name=@turned), @n)
  - @x = dropout(concat(@forward1, @backward, axis=@d), 0.1)
outputs: rmsnorm(@x)
""",
    "numbers": """
tower: @model
sizes: {@d: 4}
inputs: {@x: "float[@b, @n, @d]"}
blocks:
  @up(@z, @size, @times=2):
    - for @t in @times:
        - @z = linear(@z, @d)
    - @z * @size + range(@n)[@n=0] + embed(0, @times, @d)
  @twice(@z, @size):
    - @up(@up(@z, @size + 1), @size, 1)
outputs: @twice(@x, @n)
""",
    "groups": """
tower: @model
sizes: {@d: 8, @w: 3}
inputs: {@x: "float[@b, @n, @m, @d]", @slope: "float[@n, @n]"}
blocks:
  @look(@z, @t):
    query: linear(@z, @d)
    key: linear(@z, 4)
    value: linear(@z, 4)
    over: @n
    heads: {query: 4, key: 2}
    score: dot(rope(q, i, dk), rope(k, j, dk)) + @t[i, j]
    normalize: sigmoid
    merge: mean
    dropout: 0.1
outputs: @look(@x, @slope)
""",
}  # fmt: skip
MARKED = re.compile(r"@(\w+)")


def plain(name: str) -> str:
    return MARKED.sub(r"\1", SPECS[name])


def drawn(seed: int) -> tuple[str, str, dict[str, str]]:
    """A spec, its text with hostile names, and what each name became."""
    draw = random.Random(seed)
    name = draw.choice(sorted(SPECS))
    words = sorted(set(MARKED.findall(SPECS[name])))
    pools = draw.choices(sorted(POOLS), k=draw.choice((1, 1, 2, 4)))
    chance, named = draw.choice((0.1, 0.3, 0.6)), {w: w for w in words}
    for word in words:
        if draw.random() < chance:
            hostile = draw.choice(POOLS[draw.choice(pools)])
            # what an attention calls q hides all else that is called so
            hidden = hostile in ATTENTION and re.search(
                rf"(score|mask|locality|message|output): .*@{word}\b", SPECS[name]
            )
            if hostile not in named.values() and not hidden:
                named[word] = hostile
    return name, MARKED.sub(lambda m: named[m[1]], SPECS[name]), named


@cache
def expected(
    name: str, kernel: str | None, inference: bool
) -> tuple[dict, list[dict[str, Tensor]], list[list[Tensor]]]:
    """Weights, inputs and outputs of a plain spec. Raises TowerError where the kernel does not fit."""
    text = plain(name)
    compiled = compile_spec(text, kernel=kernel)
    torch.manual_seed(0)
    model = towerdsl.compile(text, kernel=kernel, inference=inference)().double().eval()
    optional = [i.name for i in compiled.model.inputs if i.default is not None]
    given = [inputs(compiled, lengths_of(compiled, 4), set(without)) for without in ([], optional)]
    return model.state_dict(), given, [_listed(model(**x)) for x in given]


def _listed(found) -> list[Tensor]:
    return list(found) if isinstance(found, tuple) else [found]


@cache
def fitting(name: str) -> list[str | None]:
    """The kernels that compute a spec's attentions."""
    found: list[str | None] = [None]
    for kernel in CATALOG if "value:" in SPECS[name] else ():
        try:
            expected(name, kernel.name, False)
            found.append(kernel.name)
        except (towerdsl.TowerError, RuntimeError):
            continue
    return found


def check(seed: int, kernels: bool) -> bool:
    """Whether the spec of a seed is legal; then it runs, and gives what the plain one gives. Raises AssertionError.

    With `kernels` it runs on one of those that can compute it, otherwise on the best.
    """
    name, text, named = drawn(seed)
    draw = random.Random(-seed)
    kernel = draw.choice(fitting(name)) if kernels else None
    inference, alone = draw.random() < 0.15, draw.random() < 0.25
    try:
        weights, given, results = expected(name, kernel, inference)
        if alone:
            compiled = compile_spec(text, kernel=kernel, inference=inference)
            called = class_name(compiled.model.name)
            made = getattr(load_module(compiled.source(standalone=True), compiled.model.name), called)
        else:
            made = towerdsl.compile(text, kernel=kernel, inference=inference)
    except towerdsl.TowerError:
        return False
    model = made().double().eval()
    own = model.state_dict()
    assert [x.shape for x in own.values()] == [x.shape for x in weights.values()]
    for ours, theirs in zip(own, weights, strict=True):
        _same_path(ours, theirs, named)
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    names = list(inspect.signature(model.forward).parameters)
    for ours, theirs in zip(names, given[0], strict=True):
        assert ours.rstrip("_") == named[theirs].rstrip("_")
        assert ours == named[theirs] or not _usable(named[theirs]), f"{named[theirs]} is called {ours}"
    for arguments, wanted in zip(given, results, strict=True):
        found = model(**{ours: arguments[x] for ours, x in zip(names, given[0], strict=True) if x in arguments})
        if hasattr(found, "_fields") and (spec := re.search(r"outputs: \{(.*)\}", SPECS[name])):
            wished = [named[x] for x in re.findall(r"@(\w+):", spec[1])]
            for field, wish in zip(found._fields, wished, strict=True):
                assert field == wish or (keyword.iskeyword(wish) and field.rstrip("_") == wish)
        for y, z in zip(_listed(found), wanted, strict=True):
            torch.testing.assert_close(y, z, equal_nan=True, **TOLERANCE)
    return True


def _same_path(ours: str, theirs: str, named: dict[str, str]) -> None:
    """A parameter is called as the spec says, but for what a module cannot be called."""
    for a, b in zip(ours.split("."), theirs.split("."), strict=True):
        wanted = named.get(b, b)
        if a != wanted and b in named:
            hides = hasattr(nn.Module(), wanted) or hasattr(InferenceModel(), wanted) or keyword.iskeyword(wanted)
            numbered = re.fullmatch(rf"{re.escape(wanted)}_*(_\d+)?", a)
            assert numbered, f"{b} is called {a}, not {wanted}"
            assert (
                hides
                or wanted in ("inputs", "like", "tied", "checkpoints", "seen", "ipu", "reset_parameters")
                or (re.fullmatch(r".*_\d+", a))
            ), f"{wanted} is called {a}"


def _usable(name: str) -> bool:
    """Whether an argument of `forward` can be called so."""
    used = "abs bool float int len max min next range round slice super tuple zip".split()
    used += "torch nn F math Tensor NamedTuple self".split()
    return not keyword.iskeyword(name) and name not in used
