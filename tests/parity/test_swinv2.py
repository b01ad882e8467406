"""Swin v2 equals transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_swinv2.py` tries 50 changes of each configuration, without it all.
"""

import torch
from torch import Tensor, nn

from .configured import Family, Named, Values, checks_of

SIZES = {"model_type": "swinv2", "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2, 1, 2]}
SIZES |= {"num_heads": [2, 1, 4, 2], "window_size": 4}
CLASSES = {"architectures": ["Swinv2ForImageClassification"], "id2label": {str(k): f"kind {k}" for k in range(5)}}


def images(values: Values) -> Named:
    side, channels = values.get("image_size", 224), values.get("num_channels", 3)
    return {"pixels": torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(2))}


def call(model: nn.Module, given: Named) -> Tensor:
    found = model(pixel_values=given["pixels"])
    return found.logits if "logits" in found else found.last_hidden_state


FAMILIES = {
    "swinv2": Family(
        "swinv2",
        SIZES,
        (
            {**CLASSES, "path_norm": True, "encoder_stride": 32},  # tiny-patch4-window8-256
            {**CLASSES, "pretrained_window_sizes": [6, 6, 6, 3], "mlp_ratio": 2.5},  # window16to24
            {"architectures": ["Swinv2Model"], "qkv_bias": False, "num_channels": 1},
            {**CLASSES, "hidden_act": "relu", "layer_norm_eps": 1e-6, "window_size": 8},
            {"architectures": ["Swinv2Model"], "drop_path_rate": 0.2, "hidden_dropout_prob": 0.1},
        ),
        images,
        call,
        frozenset(
            "encoder_stride hidden_size num_layers num_hidden_layers stage_names out_features out_indices "
            "path_norm".split()
        ),
        {"num_hidden_layers": 3},
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)
