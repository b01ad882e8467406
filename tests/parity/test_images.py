"""SegFormer and the image encoder of SAM equal transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_images.py` tries 50 changes of each, without it all.
"""

import torch
from torch import Tensor, nn

from .configured import Family, Named, Values, checks_of

STAGES = {"model_type": "segformer", "hidden_sizes": [6, 8, 12, 10], "depths": [1, 2, 1, 1], "sr_ratios": [4, 2, 1, 1]}
STAGES |= {"num_attention_heads": [1, 2, 3, 2], "decoder_hidden_size": 14, "mlp_ratios": [4, 2, 3, 4]}
CLASSES = {"id2label": {str(k): f"kind {k}" for k in range(5)}}
AREAS, CLASSIFIED = "SegformerForSemanticSegmentation", "SegformerForImageClassification"


SEEN = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 20, "patch_size": 4}
SEEN |= {"model_type": "sam_vision_model", "window_size": 3, "output_channels": 6, "global_attn_indexes": [0, 1, 2, 3]}
#: The parts of SAM that the image encoder is not.
PARTS = {"prompt_encoder_config": {"hidden_size": 8, "image_size": 20, "patch_size": 4, "mask_input_channels": 4}}
PARTS |= {"mask_decoder_config": {"hidden_size": 8, "num_attention_heads": 2, "mlp_dim": 8, "iou_head_hidden_dim": 6}}


def images(values: Values) -> Named:
    values = values.get("vision_config", values)
    side = values.get("image_size", 1024) if values["model_type"] == "sam_vision_model" else 0
    shape = 2, values.get("num_channels", 3), side or 64, side or 96
    return {"pixels": torch.randn(shape, generator=torch.Generator().manual_seed(2))}


def call(model: nn.Module, given: Named) -> Tensor:
    if hasattr(model, "get_image_embeddings"):
        return model.get_image_embeddings(given["pixels"])
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
    "sam_vision_model": Family(
        "sam",
        SEEN,
        (
            {"architectures": ["SamVisionModel"], "num_hidden_layers": 8, "global_attn_indexes": [1, 3, 5, 7]},  # base
            {"architectures": ["SamVisionModel"], "use_abs_pos": False, "mlp_dim": 30, "hidden_act": "relu"},
            {"architectures": ["SamVisionModel"], "use_rel_pos": False, "qkv_bias": False, "num_channels": 1},
            {"architectures": ["SamVisionModel"], "window_size": 5, "num_attention_heads": 3, "layer_norm_eps": 1e-5},
            {"architectures": ["SamVisionModel"], "image_size": 24, "patch_size": 6, "attention_dropout": 0.1},
        ),
        images,
        call,
        frozenset({"scale", "num_pos_feats"}),
    ),
    "sam": Family(
        "sam",
        {"model_type": "sam", "architectures": ["SamModel"], "vision_config": SEEN, **PARTS},
        ({"vision_config": {"num_hidden_layers": 8, "global_attn_indexes": [1, 3, 5, 7]}},),  # base, large, huge
        images,
        call,
        frozenset({"scale", "num_pos_feats", "prompt_encoder_config", "mask_decoder_config"}),
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)
