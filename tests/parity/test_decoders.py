"""Today's decoder-only models equal transformers, from `config.json` and weights alone.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_decoders.py` tries 50 changes of each.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from .configured import Family, Named, Values, checks_of, text

SIZES = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 23, "max_position_embeddings": 40, "pad_token_id": 0}
#: Which families do not have some of these.
WITHOUT = {"num_key_value_heads": ("gpt_neox", "falcon", "deepseek_v2"), "intermediate_size": ("falcon",)}
LATENT = {"kv_lora_rank": 12, "q_lora_rank": 10, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 8}
LATENT |= {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0]}
PART = {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [2.0, 4.0]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}
ROPES = [
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "linear"},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "beta_fast": 8.0, "attention_factor": 0.7},
    {"rope_type": "yarn", "factor": 2.0, "truncate": False, "original_max_position_embeddings": 8},
    {"type": "su", **{key: LONG[key] for key in ("short_factor", "long_factor")}},
    LLAMA3,
    LONG | {"original_max_position_embeddings": 8},
    {"rope_type": "proportional", "partial_rotary_factor": 0.5},
    {"rope_type": "default", "rope_theta": 77.0},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"rope_type": "llama4", "factor": 2.0},
    {},
    {"full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": {"rope_type": "default"}},
    {"full_attention": {"rope_type": "yarn", "factor": 2.0}, "sliding_attention": {"rope_theta": 50.0}},
    {"sliding_attention": {"rope_type": "linear", "factor": 2.0}},
    {"full_attention": {"rope_theta": 77.0}},
]
#: Losses of training, and what is given beside the result.
ROUTED = "output_router_logits router_aux_loss_coef"
#: Keys of other families, which are added to each.
ADDED = {
    "attn_logit_softcapping": 50.0,
    "query_pre_attn_scalar": 64,
    "residual_multiplier": 0.5,
    "no_rope_layers": [1, 0],
    "num_local_experts": 4,
    "rope_theta": 40.0,
    "partial_rotary_factor": 0.5,
    "original_max_position_embeddings": 8,
    "per_layer_config": {"1": {"num_attention_heads": 2}},
}


def positions(values: Values) -> Iterator[tuple[str, Values]]:
    """Other positions, in the spelling of today and in that of before."""
    base = {key: value for key, value in values.items() if not key.startswith("rope_")}
    for rope in ROPES:
        yield "rope", base | {"rope_parameters": rope}
        yield "rope", base | {"rope_scaling": rope, "rope_theta": 50.0}
    yield "layer_types", values | {"layer_types": ["sliding_attention", "sliding_attention"]}


def words(values: Values) -> Named:
    return text(values, most=20)


def call(model: nn.Module, given: Named) -> Tensor:
    """Padding counts for nothing: positions are those of the texts without it."""
    if "keep" not in given:
        return model(input_ids=given["ids"]).logits
    keep = given["keep"].long()
    return model(input_ids=given["ids"], attention_mask=keep, position_ids=(keep.cumsum(-1) - 1).clamp(min=0)).logits


def decoder(spec: str, output: str, name: str, *published: Values, idle: str = "", **sizes: object) -> Family:
    """A family whose models write the next word."""
    known = {key: value for key, value in SIZES.items() if name not in WITHOUT.get(key, ())}
    sizes = {"model_type": name, "architectures": [output], **known, **sizes}
    return Family(spec, sizes, published, words, call, frozenset(f"{ROUTED} {idle}".split()), ADDED, more=positions)


FAMILIES = {
    "llama": decoder(
        "llama",
        "LlamaForCausalLM",
        "llama",
        {"head_dim": 6, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}, "rope_theta": 500.0},  # 3.1
        {"num_key_value_heads": 4, "rms_norm_eps": 1e-5, "pretraining_tp": 1},  # Llama 2
        {"tie_word_embeddings": True, "rope_interleaved": False, "is_llama_config": True},  # SmolLM2
        {"attention_bias": True, "mlp_bias": True, "head_dim": 10, "hidden_act": "gelu"},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 8},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.5}},
    ),
    "mistral": decoder(
        "llama",
        "MistralForCausalLM",
        "mistral",
        {"sliding_window": 5, "rope_theta": 300.0, "head_dim": 6},  # 0.1
        {"sliding_window": None, "head_dim": 8},  # 0.3, Nemo
        {"num_key_value_heads": 4, "hidden_act": "relu"},
        {"sliding_window": 1, "tie_word_embeddings": True},
        {"rope_scaling": YARN},
    ),
    "qwen2": decoder(
        "llama",
        "Qwen2ForCausalLM",
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "use_mrope": False},
        {"use_sliding_window": False, "sliding_window": 4, "rope_theta": 1000000.0, "tie_word_embeddings": True},  # 2.5
        {"use_mrope": False, "max_window_layers": 21, "rms_norm_eps": 1e-5},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
        {"layer_types": ["full_attention", "full_attention"], "sliding_window": None},
    ),
    "qwen3": decoder(
        "llama",
        "Qwen3ForCausalLM",
        "qwen3",
        {"head_dim": 6, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
        {"head_dim": 8, "rope_theta": 1000000.0, "tie_word_embeddings": True},  # 0.6B
        {"head_dim": 10, "attention_bias": True},
        {"head_dim": 6, "rope_scaling": None, "use_sliding_window": False, "sliding_window": None},
        {"head_dim": 8, "rope_scaling": YARN},
    ),
    "phi3": decoder(
        "llama",
        "Phi3ForCausalLM",
        "phi3",
        {"sliding_window": 5, "original_max_position_embeddings": 40, "rope_scaling": None},  # mini-4k
        {"rope_scaling": PART, "original_max_position_embeddings": 9, "partial_rotary_factor": 0.67},  # Phi-4 mini
        {"attention_bias": False, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "num_key_value_heads": 4},
        {"rope_scaling": LONG, "original_max_position_embeddings": 20},  # mini-128k: short, in 13 positions
        {"lm_head_bias": False, "mlp_bias": False, "full_attn_mod": 1, "interpolate_factor": 1},
        idle="resid_pdrop embd_pdrop",
    ),
    "gemma2": decoder(
        "gemma",
        "Gemma2ForCausalLM",
        "gemma2",
        {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "hidden_act": "gelu_pytorch_tanh"},
        {"query_pre_attn_scalar": 6, "cache_implementation": "hybrid", "sliding_window_size": 3},  # 2b
        {"attn_logit_softcapping": None, "final_logit_softcapping": None, "num_hidden_layers": 3},
        {"layer_types": ["full_attention", "sliding_attention"], "attention_bias": True, "tie_word_embeddings": False},
        {"rope_scaling": YARN},
        head_dim=6,
        sliding_window=3,
        query_pre_attn_scalar=40,
    ),
    "gemma3_text": decoder(
        "gemma",
        "Gemma3ForCausalLM",
        "gemma3_text",
        {"sliding_window_pattern": 2, "rope_local_base_freq": 50.0, "rope_theta": 1000.0},
        {"layer_types": ["sliding_attention", "full_attention"], "rope_local_base_freq": 50.0},  # 270m
        {"num_hidden_layers": 7, "sliding_window_pattern": 6, "_sliding_window_pattern": 6},  # 1b
        {"num_hidden_layers": 3, "sliding_window_pattern": 3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 21, "num_key_value_heads": 4, "rope_theta": 99.0},
        {
            "rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_theta": 20.0}},
            "sliding_window_pattern": 2,
        },
        idle="_sliding_window_pattern",
        head_dim=6,
        sliding_window=3,
        query_pre_attn_scalar=40,
    ),
    "mixtral": decoder(
        "mixtral",
        "MixtralForCausalLM",
        "mixtral",
        {"num_local_experts": 4, "head_dim": 6, "router_aux_loss_coef": 0.02, "router_jitter_noise": 0.0},
        {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 4, "rope_theta": 500.0},
        {"num_local_experts": 5, "num_experts_per_tok": 3, "num_key_value_heads": 4, "tie_word_embeddings": True},
        {"num_local_experts": 4, "hidden_act": "gelu", "rms_norm_eps": 1e-6},
        {"num_local_experts": 4, "rope_scaling": YARN, "head_dim": 6},
    ),
    "qwen3_moe": decoder(
        "mixtral",
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        {"norm_topk_prob": True, "use_sliding_window": False, "mlp_only_layers": [], "decoder_sparse_step": 1},  # 30B
        {"norm_topk_prob": False, "num_experts_per_tok": 3, "attention_bias": True},
        {"norm_topk_prob": True, "num_experts_per_tok": 5, "tie_word_embeddings": True, "max_window_layers": 28},
        {"num_experts": 2, "num_experts_per_tok": 1, "rope_theta": 100.0},
        {"norm_topk_prob": True, "rope_scaling": YARN, "hidden_act": "relu"},
        idle="sliding_window intermediate_size",
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        head_dim=6,
    ),
    "gpt_neox": decoder(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        "gpt_neox",
        {"rotary_pct": 0.5, "rotary_emb_base": 300, "attention_dropout": 0.0, "hidden_dropout": 0.0},  # pythia
        {"use_parallel_residual": False, "hidden_act": "gelu_fast", "rotary_pct": 1.0, "layer_norm_eps": 1e-6},
        {"attention_bias": False, "tie_word_embeddings": True, "rotary_pct": 0.25},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rotary_pct": 1.0, "classifier_dropout": 0.1},
        {"rope_scaling": YARN | {"partial_rotary_factor": 1.0}, "rotary_emb_base": 77.0},
        idle="classifier_dropout is_decoder",
        num_attention_heads=3,
    ),
    "falcon": decoder(
        "falcon",
        "FalconForCausalLM",
        "falcon",
        {"multi_query": True, "parallel_attn": True, "bias": False},  # 7b
        {"new_decoder_architecture": True, "num_kv_heads": 2, "rope_theta": 500.0},  # 40b
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1, "ff_factor": 2},  # 11b
        {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},  # rw
        {"alibi": True, "num_attention_heads": 6, "bias": True, "activation": "relu", "tie_word_embeddings": False},
        {"alibi": True, "hidden_size": 48, "num_attention_heads": 24, "multi_query": False},
        {"rope_scaling": YARN},
        idle="num_ln_in_parallel_attn",
        ffn_hidden_size=48,
    ),
    "gpt_oss": decoder(
        "gpt_oss",
        "GptOssForCausalLM",
        "gpt_oss",
        {
            "rope_scaling": YARN | {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
            "experts_per_token": 2,
        },  # 20b
        {"rope_scaling": YARN | {"truncate": False}, "layer_types": ["full_attention", "sliding_attention"]},
        {"rope_scaling": YARN, "attention_bias": False, "swiglu_limit": 0.5, "num_hidden_layers": 3},
        {"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "sliding_window": 1, "rope_theta": 50.0},
        {"rope_scaling": YARN, "tie_word_embeddings": True, "num_experts_per_tok": 1, "swiglu_alpha": 1.0},
        num_local_experts=4,
        num_experts_per_tok=2,
        head_dim=6,
        sliding_window=3,
    ),
    "deepseek_v2": decoder(
        "deepseek",
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 16.0},  # V2
        {
            "q_lora_rank": None,
            "topk_method": "greedy",
            "n_group": 1,
            "topk_group": 1,
            "scoring_func": "softmax",
        },  # Lite
        {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32, "beta_slow": 1}},
        {"attention_bias": True, "mlp_bias": True, "n_shared_experts": 1, "first_k_dense_replace": 0},
        {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}, "aux_loss_alpha": 0.001, "seq_aux": True},
        {"topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 2},  # fewer are left than are taken
        **LATENT,
    ),
    "deepseek_v3": decoder(
        "deepseek",
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "topk_method": "noaux_tc"},  # V3
        {"n_group": 1, "topk_group": 1, "norm_topk_prob": False, "rope_interleave": False},
        {"n_group": 2, "topk_group": 1, "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
        {"n_group": 4, "topk_group": 3, "q_lora_rank": None, "attention_bias": True},
        {"n_group": 4, "topk_group": 2, "num_nextn_predict_layers": 1, "first_k_dense_replace": 2},
        idle="num_mtp_layers num_nextn_predict_layers",
        num_key_value_heads=4,
        **LATENT,
    ),
    "rwkv": Family(
        "rwkv",
        {"model_type": "rwkv", "architectures": ["RwkvForCausalLM"], "hidden_size": 24, "vocab_size": 23},
        (
            {"num_hidden_layers": 2, "context_length": 40},  # RWKV-4
            {"num_hidden_layers": 4, "rescale_every": 2, "attention_hidden_size": 24, "intermediate_size": 20},
            {"num_hidden_layers": 3, "rescale_every": 0, "layer_norm_epsilon": 1e-4},
            {"num_hidden_layers": 2, "tie_word_embeddings": True, "rescale_every": 1},
            {"num_hidden_layers": 2, "rescale_every": -1, "attention_hidden_size": None, "intermediate_size": None},
        ),
        lambda values: {"ids": words(values)["ids"]},  # it knows no padding
        call,
        added=ADDED,
    ),
}

test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key = checks_of(FAMILIES)
