"""Keys of public configurations that change nothing of what a model computes, in every family."""

from __future__ import annotations

#: Who wrote the file, and with what.
_ORIGIN = """
transformers_version _name_or_path _model_name_or_path name_or_path _commit_hash auto_map dtype torch_dtype
use_bfloat16 model_name _attn_implementation _attn_implementation_autoset attn_implementation _flash_attn_2_enabled
"""
#: Tokens that have a meaning: for a tokenizer, and for what is fed to the model.
_TOKENS = """
bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id
forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens bad_words_ids tokenizer_class prefix
"""
#: How a model is called, what it gives beside its result, and how it was set up before training.
_CALLS = """
use_cache return_dict output_attentions output_hidden_states torchscript chunk_size_feed_forward pretraining_tp
gradient_checkpointing initializer_range initializer_factor
"""
#: Labels of heads that a classifier has.
_LABELS = "id2label label2id num_labels problem_type finetuning_task task_specific_params"
#: How texts are continued; older files have it here.
_GENERATION = """
max_length max_new_tokens min_length min_new_tokens early_stopping do_sample num_beams num_beam_groups
diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
encoder_no_repeat_ngram_size num_return_sequences output_scores return_dict_in_generate remove_invalid_values
exponential_decay_length_penalty renormalize_logits
"""

IDLE = frozenset(" ".join((_ORIGIN, _TOKENS, _CALLS, _LABELS, _GENERATION)).split())
