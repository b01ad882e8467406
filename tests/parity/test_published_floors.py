"""BERT, GPT, GPT-2, ViT, DINOv2, DETR and Swin equal transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_published_floors.py` tries 50 changes of each.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import towerdsl

from .configured import Family, Named, Values, check_no_key_is_passed_over, checks_of, text, theirs

BERT = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
VIT = {**BERT, "image_size": 12, "patch_size": 4}
LOOKS = {key: value for key, value in VIT.items() if key != "intermediate_size"}
BERT |= {"vocab_size": 23, "max_position_embeddings": 20}
GPT = {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 23, "n_positions": 20}
SWIN = {"embed_dim": 8, "num_heads": [1, 2, 2, 4], "depths": [1, 2, 1, 1], "window_size": 2, "image_size": 32}
DETR = {
    "model_type": "detr",
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "num_queries": 5,
}
DETR |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "backbone": None}
RESNET = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 2, 1]}
LABELS = {str(k): f"LABEL_{k}" for k in range(5)}
IDLE = "n_ctx summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout".split()


def texts(values: Values) -> Named:
    """Causal models see no padding to the left: positions would be those of the padded text."""
    given = text(values)
    if "hidden_size" in values:
        return given | {"segment": torch.arange(13).expand(3, 13) // 6 % 2}
    return {name: x[[0, 2]] for name, x in given.items()}


def images(values: Values) -> Named:
    size = values.get("image_size", 224)
    return {"pixels": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))}


def read(model: nn.Module, given: Named) -> Tensor:
    keep = {} if "keep" not in given else {"attention_mask": given["keep"].long()}
    segment = {"token_type_ids": given["segment"]} if "segment" in given else {}
    found = model(input_ids=given["ids"], **keep, **segment)
    return found.logits if "logits" in found else found.last_hidden_state


def look(model: nn.Module, given: Named) -> Tensor:
    found = model(pixel_values=given["pixels"])
    return found.logits if "logits" in found else found.last_hidden_state


FAMILIES = {
    "bert": Family(
        "bert",
        {"model_type": "bert", **BERT},
        (
            {"architectures": ["BertModel"], "gradient_checkpointing": False},  # MiniLM
            {"architectures": ["BertModel"], "type_vocab_size": 3, "hidden_act": "relu", "layer_norm_eps": 1e-5},
            {"architectures": ["BertModel"], "hidden_act": "gelu_new", "position_embedding_type": "absolute"},
            {"architectures": ["BertModel"], "num_attention_heads": 1, "classifier_dropout": None},
            {"architectures": ["BertModel"], "hidden_dropout_prob": 0.0, "intermediate_size": 30},
        ),
        texts,
        read,
        frozenset({"classifier_dropout"}),
        spare=frozenset({"pooler.dense.weight", "pooler.dense.bias"}),
    ),
    "gpt": Family(
        "gpt",
        {"model_type": "openai-gpt", "architectures": ["OpenAIGPTLMHeadModel"], **GPT},
        (
            {"n_ctx": 20, "afn": "gelu"},
            {"layer_norm_epsilon": 1e-3},
            {"n_head": 3},
            {"resid_pdrop": 0.0, "embd_pdrop": 0.0},
        ),
        texts,
        read,
        frozenset(IDLE),
    ),
    "gpt2": Family(
        "gpt2",
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **GPT},
        (
            {"n_ctx": 20, "activation_function": "gelu_new", "n_inner": None},
            {"n_inner": 30, "layer_norm_epsilon": 1e-3},
            {"n_head": 3, "scale_attn_weights": True},
            {"reorder_and_upcast_attn": False, "attn_pdrop": 0.0},
        ),
        texts,
        read,
        frozenset(IDLE),
    ),
    "vit": Family(
        "vit",
        {"model_type": "vit", "architectures": ["ViTForImageClassification"], **VIT},
        (
            {"id2label": LABELS, "encoder_stride": 16},
            {"hidden_act": "relu", "layer_norm_eps": 1e-5},
            {"image_size": 8, "patch_size": 2, "qkv_bias": True, "id2label": LABELS},
            {"hidden_dropout_prob": 0.1, "num_attention_heads": 3},
        ),
        images,
        look,
        frozenset({"encoder_stride", "pooler_output_size", "pooler_act"}),
    ),
    "swin": Family(
        "swin",
        {"model_type": "swin", "architectures": ["SwinForImageClassification"], **SWIN},
        (
            {"id2label": LABELS, "num_layers": 4, "path_norm": True, "patch_size": 2},
            {"window_size": 3, "patch_size": 1, "image_size": 48},
            {"depths": [2, 1, 2, 1], "num_heads": [2, 2, 4, 4], "patch_size": 2},
            {"drop_path_rate": 0.0, "patch_size": 1, "window_size": 4},
        ),
        images,
        look,
        frozenset({"encoder_stride", "hidden_size", "out_features", "out_indices", "stage_names"}),
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)

#: What they give is more than one tensor, so it is compared here and in their own files.
OTHERS = {
    "detr": Family("detr", {**DETR, "backbone_config": RESNET}, ({"id2label": LABELS},), images, look),
    "dinov2": Family("dinov2", {"model_type": "dinov2", **LOOKS}, ({"mlp_ratio": 2},), images, look),
}
COSTS = "auxiliary_loss init_std init_xavier_std class_cost bbox_cost giou_cost mask_loss_coefficient"
COSTS += " dice_loss_coefficient bbox_loss_coefficient giou_loss_coefficient eos_coefficient stage_names num_stages"
NOTHING = "layerscale_value apply_layernorm reshape_hidden_states use_mask_token out_features out_indices stage_names"


@pytest.mark.parametrize(("name", "idle"), [("detr", COSTS), ("dinov2", NOTHING)])
def test_no_key_of_others_is_passed_over(name: str, idle: str) -> None:
    check_no_key_is_passed_over(replace(OTHERS[name], idle=frozenset(idle.split())))


@pytest.mark.parametrize("name", OTHERS)
def test_others_from_a_folder(name: str, tmp_path: Path) -> None:
    values = OTHERS[name].configuration()
    architecture = {"detr": "DetrForObjectDetection", "dinov2": "Dinov2Model"}[name]
    model = theirs(OTHERS[name], values | {"architectures": [architecture]})
    model.save_pretrained(tmp_path)
    given = images({"image_size": 64})
    with torch.no_grad():
        expected, found = model(pixel_values=given["pixels"]), towerdsl.load(tmp_path)(**given)
    names = {"logits": "logits", "boxes": "pred_boxes", "states": "last_hidden_state", "pooled": "pooler_output"}
    for ours, public in names.items():
        if hasattr(found, ours):
            a, b = getattr(found, ours), getattr(expected, public)
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()
