"""GGUF files of the package gguf, small ones."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

SIZES = {"block_count": 2, "context_length": 40, "embedding_length": 32, "feed_forward_length": 64, "vocab_size": 23}
SIZES |= {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-6}


def write(
    file: Path,
    tensors: Mapping[str, np.ndarray],
    architecture: str = "llama",
    metadata: Mapping[str, object] = SIZES,
    packed: str = "F32",
) -> Path:
    """A file with these tensors, matrices packed; keys without a dot in front get the architecture's."""
    writer = GGUFWriter(file, architecture)
    for key, value in metadata.items():
        name = key.removeprefix("/") if key.startswith("/") else f"{architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    for name, tensor in tensors.items():
        kind = GGMLQuantizationType[packed] if tensor.ndim > 1 else GGMLQuantizationType.F32
        if tensor.dtype == np.uint8:  # packed already
            writer.add_tensor(name, tensor, raw_dtype=GGMLQuantizationType[packed])
        else:
            writer.add_tensor(name, quantize(tensor.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
