"""Words of Python, torch, einops and YAML, and what is written here instead."""

from __future__ import annotations

_MOVES = 'axes go by name; `rearrange(x, "b n d -> b d n")` reorders, splits and merges them'
_CONTRACTS = "`dot(a, b)` contracts the last axes, and combines the others by name"
_ATTENTION = "an attention is a block of its own, with `query:`, `key:` and `value:`"
_HALF = "which pairs count is a condition: `mask: j <= i` in an attention"
_PARTS = "`x[n=:2]` and `x[n=2:]` take parts of an axis"
_REDUCES = "axes go by name: `mean(x, n)`, `sum(x, n)`, `amax(x, n)`"

#: Functions and classes.
FUNCTIONS = {
    **dict.fromkeys(
        "transpose permute movedim swapaxes reshape view flatten unflatten squeeze unsqueeze contiguous".split(), _MOVES
    ),
    **dict.fromkeys("einsum matmul bmm mm tensordot inner".split(), _CONTRACTS),
    **dict.fromkeys(
        """attention attn self_attention mha MultiheadAttention MultiHeadAttention multihead_attention
        multi_head_attention scaled_dot_product_attention sdpa""".split(),
        _ATTENTION,
    ),
    **dict.fromkeys(("tril", "triu", "causal_mask"), _HALF),
    **dict.fromkeys(("split", "chunk", "narrow"), _PARTS),
    "reduce": _REDUCES,
    "norm": "write `layernorm(x)` or `rmsnorm(x)`; `unit(x)` divides by the length",
    "normalize": "`unit(x)` divides by the length",
    "stack": "give each an axis of length 1, `a[n, s] = rearrange(a, 'n -> n 1')`, and write `concat(a, b, axis=s)`",
    "masked_fill": "write `where(c, a, b)`; `mask:` hides keys from an attention",
    "repeat": "axes that one side lacks are broadcast by name; `outer(x * ones([m]))` repeats along a new axis",
    "expand": "axes that one side lacks are broadcast by name; `outer(x * ones([m]))` repeats along a new axis",
    "pow": "powers are written `x ** 2`",
    "swish": "write `silu(x)`",
    "pad": "join zeros: `concat(zeros([b, 1, d]), x, axis=n)`",
    "interpolate": 'write `resize(x, [h, w], "bilinear")`',
    "upsample": 'write `resize(x, [h, w], "bilinear")`',
    "logsumexp": "write `log(sum(exp(x), n))`",
    "gather": "`x[n=at]` takes what stands at the positions `at`, `table[at]` rows of a table",
    "index_select": "`x[n=at]` takes what stands at the positions `at`, `table[at]` rows of a table",
    "positional_encoding": "write `sinusoidal(range(n), d)`, or learned `embed(range(n), context, d)`",
    "rotary": "write `rope(q, i, dk)`",
    "Embedding": "write `embed(ids, vocab, d)`",
    "Parameter": "a learned tensor is declared in `params:`",
    "one_hot": "compare: `float(outer(ids == range(vocab)))`",
    "print": "a spec computes and shows nothing: remove it",
    "Sequential": "write one statement a line",
}

#: Fields of an attention. A word alone is the field that is meant.
FIELDS = {
    "q": "query",
    "k": "key",
    "v": "value",
    "keys": "key",
    "values": "value",
    "queries": "query",
    "out": "output",
    "out_proj": "output",
    "proj": "output",
    "axis": "over",
    "dim": "over",
    "causal": "write `mask: j <= i`",
    "is_causal": "write `mask: j <= i`",
    "window": "write `locality: abs(i - j) < w`",
    "scale": "a scale is part of the score: `score: dot(q, k) / sqrt(dk)`",
    "softmax": "write `normalize: softmax`",
    "activation": "how scores become weights says `normalize:`, as in `normalize: sigmoid`",
    "bias": "add it to the score: `score: dot(q, k) / sqrt(dk) + table[head, i - j]`",
    "position": "what positions add is part of the score, as in `score: dot(rope(q, i, dk), rope(k, j, dk))`",
}

#: Options of functions.
OPTIONS = {
    **dict.fromkeys(("dim", "dims"), "axes go by name: `softmax(x, n)`, `mean(x, [h, w])`"),
    **dict.fromkeys(("keepdim", "keepdims"), "leave it out: an axis that one side lacks is broadcast by name"),
    "approximate": "write `gelu_tanh(x)`",
    "bias_init": "a tensor with an initializer of its own is declared in `params:`",
    "inplace": "leave it out: a statement assigns its result",
}

#: Names of values.
VALUES = {
    **dict.fromkeys(("True", "yes", "on"), "write `true`"),
    **dict.fromkeys(("False", "no", "off"), "write `false`"),
    **dict.fromkeys(
        ("inf", "infinity", "Infinity"), "a condition in `mask:` hides a key; elsewhere write a large number"
    ),
    **dict.fromkeys(
        ("None", "none", "null"),
        "leave out what has a default, also an input, `keep: bool[b, n] = true`; or write `false` or a number",
    ),
    "pi": "write `3.141592653589793`",
}

#: What functions of other libraries are called through.
LIBRARIES = ("torch", "nn", "F", "functional", "np", "numpy", "math", "einops", "tf", "jnp")

#: Words that begin a statement elsewhere.
STATEMENTS = ("while", "def", "class", "with", "try", "switch", "match", "foreach", "repeat", "unless", "function")
