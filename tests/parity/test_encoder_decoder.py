"""BART and Whisper equal transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_encoder_decoder.py` tries 50 changes of each configuration,
without it all.
"""

import torch
from torch import Tensor, nn

from .configured import Family, Named, Values, checks_of, pairs, text

SIZES = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 20, "decoder_ffn_dim": 28}
SIZES |= {"encoder_attention_heads": 4, "decoder_attention_heads": 3, "vocab_size": 23, "decoder_start_token_id": 2}
SPOKEN = SIZES | {"num_mel_bins": 5, "max_source_positions": 7, "max_target_positions": 12, "pad_token_id": 1}
WRITTEN, SAID = "BartForConditionalGeneration", "WhisperForConditionalGeneration"


def sounds(values: Values) -> Named:
    answer = text(values, 9)
    shape = 2, values.get("num_mel_bins", 80), 2 * values.get("max_source_positions", 1500)
    sound = torch.randn(3, *shape[1:], generator=torch.Generator().manual_seed(2))
    return {"sound": sound, "answer": answer["ids"], "answer_keep": answer["keep"]}


def call(model: nn.Module, given: Named) -> Tensor:
    names = {"ids": "input_ids", "sound": "input_features", "answer": "decoder_input_ids"}
    names |= {"keep": "attention_mask", "answer_keep": "decoder_attention_mask"}
    inputs = {names[name]: x.long() if name.endswith("keep") else x for name, x in given.items()}
    found = model(**inputs, use_cache=False)
    return found.logits if "logits" in found else found.last_hidden_state


FAMILIES = {
    "bart": Family(
        "bart",
        {"model_type": "bart", **SIZES, "max_position_embeddings": 15},
        (
            {"architectures": ["BartModel"], "normalize_before": False, "extra_pos_embeddings": 2},  # base, large
            {"architectures": [WRITTEN], "scale_embedding": False, "activation_dropout": 0.1},  # for summaries
            {"architectures": [WRITTEN], "scale_embedding": True, "activation_function": "relu"},
            {"architectures": ["BartModel"], "decoder_layers": 2, "num_hidden_layers": 2, "output_past": False},
            {"architectures": [WRITTEN], "static_position_embeddings": False, "dropout": 0.0, "init_std": 0.1},
        ),
        pairs,
        call,
        frozenset({"init_std", "classifier_dropout"}),
        {"normalize_before": True, "add_final_layer_norm": True, "extra_pos_embeddings": 3},
        kept="answer_keep",
    ),
    "whisper": Family(
        "whisper",
        {"model_type": "whisper", **SPOKEN},
        (
            {"architectures": [SAID], "apply_spec_augment": False, "median_filter_width": 7},  # tiny to large-v3
            {"architectures": [SAID], "decoder_layers": 2, "num_hidden_layers": 2, "num_mel_bins": 9},  # turbo
            {"architectures": ["WhisperModel"], "use_weighted_layer_sum": False, "activation_function": "relu"},
            {"architectures": [SAID], "scale_embedding": True, "dropout": 0.1},
            {"architectures": [SAID], "forced_decoder_ids": [[1, 2]], "max_length": 448, "init_std": 0.1},
        ),
        sounds,
        call,
        frozenset(
            "init_std use_weighted_layer_sum classifier_proj_size mask_time_prob mask_time_length mask_time_min_masks "
            "mask_feature_prob mask_feature_length mask_feature_min_masks median_filter_width".split()
        ),
        kept="answer_keep",
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)
