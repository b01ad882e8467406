"""SegFormer equals transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_images.py` tries 50 changes of each, without it all.
"""

import torch
from torch import Tensor, nn

from .configured import Family, Named, Values, checks_of

STAGES = {"model_type": "segformer", "hidden_sizes": [6, 8, 12, 10], "depths": [1, 2, 1, 1], "sr_ratios": [4, 2, 1, 1]}
STAGES |= {"num_attention_heads": [1, 2, 3, 2], "decoder_hidden_size": 14, "mlp_ratios": [4, 2, 3, 4]}
CLASSES = {"id2label": {str(k): f"kind {k}" for k in range(5)}}
AREAS, CLASSIFIED = "SegformerForSemanticSegmentation", "SegformerForImageClassification"


def images(values: Values) -> Named:
    shape = 2, values.get("num_channels", 3), 64, 96
    return {"pixels": torch.randn(shape, generator=torch.Generator().manual_seed(2))}


def call(model: nn.Module, given: Named) -> Tensor:
    found = model(pixel_values=given["pixels"])
    return found.logits if "logits" in found else found.last_hidden_state


FAMILIES = {
    "segformer": Family(
        "segformer",
        STAGES,
        (
            {"architectures": [AREAS], **CLASSES, "downsampling_rates": [1, 4, 8, 16], "image_size": 224},  # b0 to b5
            {"architectures": [CLASSIFIED], **CLASSES, "reshape_last_stage": True},  # mit-b0 to b5
            {"architectures": ["SegformerModel"], "hidden_act": "relu", "sr_ratios": [8, 4, 2, 1]},
            {"architectures": [AREAS], **CLASSES, "patch_sizes": [5, 3, 3, 3], "num_channels": 4},
            {"architectures": [CLASSIFIED], "drop_path_rate": 0.0, "strides": [2, 2, 2, 2]},
        ),
        images,
        call,
        frozenset("layer_norm_eps semantic_loss_ignore_index downsampling_rates image_size".split()),
        saved=True,
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)
