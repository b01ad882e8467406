"""DeBERTa, v1 to v3, equals transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_deberta.py` tries 50 changes of each, without it all.
"""

import torch
from torch import Tensor, nn

from .configured import Family, Named, Values, checks_of, text

SIZES = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 23}
SIZES |= {"max_position_embeddings": 40, "relative_attention": True, "pos_att_type": "p2c|c2p"}
IDLE = frozenset("pooler_hidden_size pooler_dropout pooler_hidden_act legacy conv_act".split())
IDLE |= {"pos_att_type"}  # in another order


def texts(values: Values) -> Named:
    given = text(values, 29)
    if values.get("type_vocab_size") == 2:
        given["segment"] = torch.arange(29).expand(3, 29) // 6 % 2
    return given


def call(model: nn.Module, given: Named) -> Tensor:
    keep = {} if "keep" not in given else {"attention_mask": given["keep"].long()}
    segment = {"token_type_ids": given["segment"]} if "segment" in given else {}
    found = model(input_ids=given["ids"], **keep, **segment)
    return found.logits if "logits" in found else found.last_hidden_state


FAMILIES = {
    "deberta-v2": Family(
        "deberta",
        {"model_type": "deberta-v2", **SIZES, "position_biased_input": False, "architectures": ["DebertaV2Model"]},
        (
            {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True},  # v3
            {"architectures": ["DebertaV2ForMaskedLM"], "max_relative_positions": -1, "type_vocab_size": 2},
            {"position_buckets": 6, "max_relative_positions": 20, "pos_att_type": ["c2p"], "share_att_key": False},
            {"pos_att_type": ["c2p", "p2c"], "max_relative_positions": 9, "norm_rel_ebd": "none"},
            {"position_biased_input": True, "pos_att_type": ["p2c"], "position_buckets": 32},
        ),
        texts,
        call,
        IDLE,
        {"conv_kernel_size": 3, "conv_act": "gelu", "embedding_size": 12},
    ),
    "deberta": Family(
        "deberta",
        {"model_type": "deberta", **SIZES, "position_biased_input": False, "architectures": ["DebertaForMaskedLM"]},
        (
            {"max_relative_positions": -1, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},  # base, large
            {"architectures": ["DebertaModel"], "position_biased_input": True, "type_vocab_size": 2},
            {"max_relative_positions": 7, "pos_att_type": "p2c"},
            {"pos_att_type": ["c2p"], "hidden_act": "relu"},
            {"position_biased_input": True, "architectures": ["DebertaModel"], "num_attention_heads": 3},
        ),
        texts,
        call,
        IDLE,
        {"talking_head": True, "position_buckets": 8},
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)
