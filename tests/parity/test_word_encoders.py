"""RoBERTa, ELECTRA, DistilBERT and ModernBERT equal transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_word_encoders.py` tries 50 changes of each.
"""

import torch
from torch import Tensor, nn

from .configured import Family, Named, Values, checks_of, text

BERT = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT |= {"vocab_size": 23, "max_position_embeddings": 20, "pad_token_id": 1}
MODERN = {key: BERT[key] for key in BERT if key != "max_position_embeddings"} | {"pad_token_id": 0}
DISTILLED = {"dim": 24, "hidden_dim": 20, "n_layers": 2, "n_heads": 4, "vocab_size": 23, "max_position_embeddings": 20}


def texts(values: Values) -> Named:
    given = text(values, most=20)
    given["ids"][~given["keep"]] = 1
    if values.get("type_vocab_size") == 2:
        given["segment"] = torch.arange(13).expand(3, 13) // 6 % 2
    return given


def call(model: nn.Module, given: Named) -> Tensor:
    keep = {} if "keep" not in given else {"attention_mask": given["keep"].long()}
    segment = {"token_type_ids": given["segment"]} if "segment" in given else {}
    found = model(input_ids=given["ids"], **keep, **segment)
    return found.logits if "logits" in found else found.last_hidden_state


FAMILIES = {
    "roberta": Family(
        "roberta",
        {"model_type": "roberta", **BERT},
        (
            {"architectures": ["RobertaForMaskedLM"], "layer_norm_eps": 1e-5, "type_vocab_size": 1},  # base, large
            {"architectures": ["RobertaModel"], "type_vocab_size": 2, "pad_token_id": 0, "hidden_act": "gelu_new"},
            {"architectures": ["RobertaModel"], "classifier_dropout": None, "position_embedding_type": "absolute"},
            {"architectures": ["RobertaForMaskedLM"], "num_attention_heads": 1, "hidden_act": "relu"},
            {"architectures": ["RobertaModel"], "attention_probs_dropout_prob": 0.0, "is_decoder": False},
            {"model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"], "type_vocab_size": 1},
            {"model_type": "camembert", "architectures": ["CamembertModel"], "type_vocab_size": 1},
        ),
        texts,
        call,
        frozenset({"classifier_dropout"}),
    ),
    "electra": Family(
        "roberta",
        {"model_type": "electra", **BERT, "pad_token_id": 0, "embedding_size": 12},
        (
            {"architectures": ["ElectraForPreTraining"], "summary_type": "first", "summary_use_proj": True},  # small
            {"architectures": ["ElectraForMaskedLM"], "type_vocab_size": 2},  # its generator
            {"architectures": ["ElectraForPreTraining"], "embedding_size": 24},  # base, large
            {"architectures": ["ElectraModel"], "hidden_act": "relu", "layer_norm_eps": 1e-6},
            {"architectures": ["ElectraForMaskedLM"], "embedding_size": 24, "hidden_act": "silu"},
        ),
        texts,
        call,
        frozenset("classifier_dropout summary_type summary_use_proj summary_activation summary_last_dropout".split()),
    ),
    "distilbert": Family(
        "distilbert",
        {"model_type": "distilbert", **DISTILLED},
        (
            {"architectures": ["DistilBertForMaskedLM"], "qa_dropout": 0.1},  # base
            {"architectures": ["DistilBertModel"], "activation": "relu"},
            {"architectures": ["DistilBertModel"], "sinusoidal_pos_embds": True, "output_past": True},
            {"architectures": ["DistilBertForMaskedLM"], "activation": "gelu_new", "n_heads": 3},
            {"architectures": ["DistilBertModel"], "dropout": 0.0, "seq_classif_dropout": 0.0},
        ),
        texts,
        call,
        frozenset({"qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds"}),
    ),
    "modernbert": Family(
        "modernbert",
        {"model_type": "modernbert", **MODERN, "num_hidden_layers": 4, "local_attention": 6},
        (
            {"architectures": ["ModernBertForMaskedLM"], "global_attn_every_n_layers": 3, "local_rope_theta": 50.0},
            {"architectures": ["ModernBertModel"], "attention_bias": True, "mlp_bias": True, "norm_bias": True},
            {"architectures": ["ModernBertForMaskedLM"], "classifier_bias": True, "decoder_bias": False},
            {"architectures": ["ModernBertModel"], "global_attn_every_n_layers": 2, "global_rope_theta": 80.0},
            {"architectures": ["ModernBertForMaskedLM"], "local_attention": 3, "reference_compile": None},
        ),
        texts,
        call,
        frozenset(
            "max_position_embeddings classifier_pooling classifier_dropout deterministic_flash_attn sparse_prediction "
            "sparse_pred_ignore_index initializer_cutoff_factor".split()
        ),
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 50.0, "head_dim": 4},
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)
