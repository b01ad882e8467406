"""T5, T5 v1.1 and Flan-T5 equal transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_t5.py` tries 50 changes of each configuration, without it all.
"""

import torch
from torch import Tensor, nn

from .configured import Family, Named, Values, checks_of, pairs

SIZES = {"model_type": "t5", "d_model": 24, "d_kv": 5, "num_heads": 4, "d_ff": 20, "num_layers": 2, "vocab_size": 23}
SIZES |= {"relative_attention_num_buckets": 8, "pad_token_id": 0, "decoder_start_token_id": 0}
ANSWERS = "T5ForConditionalGeneration"


def texts(values: Values) -> Named:
    return pairs(values)


def call(model: nn.Module, given: Named) -> Tensor:
    inputs = {"input_ids": given["ids"], "decoder_input_ids": given["answer"]}
    if "keep" in given:
        inputs |= {"attention_mask": given["keep"].long(), "decoder_attention_mask": given["answer_keep"].long()}
    found = model(**inputs, use_cache=False)
    return found.logits if "logits" in found else found.last_hidden_state


def untied(model: nn.Module, values: Values) -> None:
    """A table of its own for the answer, as the checkpoints of v1.1 have."""
    if not model.config.scale_decoder_outputs:
        model.lm_head.weight = nn.Parameter(0.3 * torch.randn(values["vocab_size"], values["d_model"]))


FAMILIES = {
    "t5": Family(
        "t5",
        SIZES,
        (
            {"architectures": [ANSWERS], "relative_attention_max_distance": 12, "n_positions": 512},  # small, base
            {"architectures": [ANSWERS], "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},  # v1.1, Flan
            {"architectures": ["T5Model"], "num_decoder_layers": 1, "dropout_rate": 0.0, "layer_norm_epsilon": 1e-5},
            {"architectures": [ANSWERS], "feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 32},
            {"architectures": [ANSWERS], "feed_forward_proj": "gelu", "num_decoder_layers": 3, "num_heads": 3},
        ),
        texts,
        call,
        frozenset({"n_positions", "classifier_dropout"}),
        kept="answer_keep",
        change=untied,
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)
