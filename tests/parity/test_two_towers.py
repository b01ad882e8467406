"""CLIP and SigLIP equal transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_two_towers.py` tries 50 changes of each configuration, without it
all.
"""

import torch
from torch import Tensor, nn

from .configured import Family, Named, Values, checks_of, text

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = SIZES | {"hidden_size": 24, "intermediate_size": 20, "vocab_size": 23, "max_position_embeddings": 15}
IMAGE = SIZES | {"hidden_size": 20, "intermediate_size": 28, "image_size": 12, "patch_size": 4}


def both(values: Values) -> Named:
    given = text(values["text_config"], most=20)
    given["ids"][torch.arange(3), torch.tensor([6, 12, 4])] = 21
    side, channels = (values["vision_config"].get(key, n) for key, n in (("image_size", 12), ("num_channels", 3)))
    return given | {"pixels": torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(2))}


def call(model: nn.Module, given: Named) -> Tensor:
    keep = {} if "keep" not in given else {"attention_mask": given["keep"].long()}
    return model(input_ids=given["ids"], pixel_values=given["pixels"], **keep).logits_per_image


def towers(kind: str, text: Values, image: Values, **more: object) -> Values:
    text = {"text_config": {"model_type": f"{kind}_text_model", **TEXT, **text}}
    image = {"vision_config": {"model_type": f"{kind}_vision_model", **IMAGE, **image}}
    return {"model_type": kind, **text, **image, **more}


FAMILIES = {
    "clip": Family(
        "clip",
        towers("clip", {"eos_token_id": 21}, {}, architectures=["CLIPModel"], projection_dim=12),
        (
            {"logit_scale_init_value": 2.6592},  # OpenAI's
            towers("clip", {"eos_token_id": 2, "dropout": 0.0}, {}),  # OpenAI's, as they were first written
            towers("clip", {"hidden_act": "gelu"}, {"hidden_act": "gelu", "num_attention_heads": 2}),  # LAION's
            {"projection_dim": 30, "text_config": {"num_hidden_layers": 1, "bos_token_id": 0}},
            towers("clip", {"layer_norm_eps": 1e-6}, {"layer_norm_eps": 1e-6, "patch_size": 6}),
        ),
        both,
        call,
        frozenset({"logit_scale_init_value"}),
        kept="",
    ),
    "siglip": Family(
        "siglip",
        towers("siglip", {"projection_size": 20}, {}, architectures=["SiglipModel"]),
        (
            {},  # base, so400m
            {"text_config": {"hidden_size": 20, "projection_size": None}},
            towers("siglip", {"hidden_act": "gelu"}, {"hidden_act": "gelu", "vision_use_head": True}),
            {"vision_config": {"num_channels": 1, "image_size": 8, "patch_size": 8}},
            {"text_config": {"attention_dropout": 0.1}, "vision_config": {"attention_dropout": 0.1}},
        ),
        both,
        call,
        kept="",
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)
