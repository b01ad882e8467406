"""The metadata of a GGUF file as a configuration.

Keys lose the name of the architecture that they begin with: `llama.block_count` is `block_count`. What rules may ask of
tensors are keys, too: `output.weight` is "present" where there is such a tensor, `rope_freqs.weight.values` is a list
of its numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from towerdsl.configs.rules import ARCHITECTURE, Config
from towerdsl.configs.values import Value
from towerdsl.diagnostics import Diagnostic, TowerError
from towerdsl.weights.gguf import Counted, Header, read_header

#: Beginnings of keys that change nothing: who made the file, from what and how; the tokenizer; how it was quantized.
IDLE = ("general.", "tokenizer.", "quantize.")
WORDS = "tokenizer.ggml.tokens"
#: Of tensors outside of layers, those with so many numbers are read.
LONGEST = 1024


def metadata(file: Path) -> Config:
    """What a GGUF file says of the model in it. Raises TowerError for what is no model, or a part of one."""
    header = read_header(file)
    whole, parts = header.metadata.get("general.type", "model"), header.metadata.get("split.count", 0)
    if whole != "model":
        raise _error(f"`{file}` is of the type `{whole}`, not a model", "give the file of the model")
    if parts not in (0, 1):
        raise _error(f"`{file}` is one of {parts} parts", "join them: llama-gguf-split --merge")
    values: dict[str, Value] = {}
    spelled: dict[str, str] = {}
    for key, value in header.metadata.items():
        if key == ARCHITECTURE or not key.startswith((*IDLE, "split.")):
            short = key.removeprefix(f"{header.architecture}.")
            spelled[short] = key
            values[short] = value.length if isinstance(value, Counted) else value
    words = header.metadata.get(WORDS)
    if "vocab_size" not in values and isinstance(words, list | Counted):
        values["vocab_size"] = len(words) if isinstance(words, list) else words.length
        spelled["vocab_size"] = f"the number of {WORDS}"
    return Config(values, None, spelled, ARCHITECTURE, dict(_asked(file, header)))


def _asked(file: Path, header: Header) -> Iterator[tuple[str, Value]]:
    """What rules may ask of tensors."""
    with file.open("rb") as stream:
        for name, tensor in header.tensors.items():
            yield name, "present"
            if tensor.packed == "F32" and len(tensor.shape) == 1 and tensor.shape[0] <= LONGEST and "blk." not in name:
                stream.seek(tensor.start)
                yield f"{name}.values", list(struct.unpack(f"<{tensor.shape[0]}f", stream.read(4 * tensor.shape[0])))


def _error(message: str, help: str) -> TowerError:
    return TowerError([Diagnostic("config-file", message, None, (), help)])
