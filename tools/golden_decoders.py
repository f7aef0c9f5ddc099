"""The decoders of tests/golden: class and config of each; see make_golden.py."""

import transformers

GPT2 = transformers.GPT2Config(
    vocab_size=61, n_positions=29, n_embd=24, n_layer=3, n_head=4, n_inner=52,
    layer_norm_epsilon=3e-3, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
LLAMA_TIED = transformers.LlamaConfig(
    vocab_size=61, hidden_size=24, intermediate_size=44, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=32,
    rms_norm_eps=2e-3, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    rope_parameters={"rope_type": "linear", "rope_theta": 700.0, "factor": 2.5},
    dtype="bfloat16",
)  # fmt: skip
LLAMA_BIASED = transformers.LlamaConfig(
    vocab_size=61, hidden_size=24, intermediate_size=44, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=10, hidden_act="gelu",
    max_position_embeddings=256, rms_norm_eps=2e-3, attention_bias=True, mlp_bias=True,
    tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    rope_parameters={
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
)  # fmt: skip
SMALL = dict(
    vocab_size=37, hidden_size=20, intermediate_size=28, num_hidden_layers=3,
    num_attention_heads=4, max_position_embeddings=64, bos_token_id=None,
    eos_token_id=None, pad_token_id=None,
)  # fmt: skip
GROUPED = SMALL | dict(num_key_value_heads=2, rms_norm_eps=3e-3)
LLAMA_YARN = transformers.LlamaConfig(
    **GROUPED, head_dim=16,
    rope_parameters={
        "rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "beta_fast": 2.0,
        "beta_slow": 0.5, "mscale": 1.5, "mscale_all_dim": 0.5,
        "original_max_position_embeddings": 16,
    },
)  # fmt: skip
GPT_NEOX = transformers.GPTNeoXConfig(
    **SMALL | dict(hidden_size=24, num_attention_heads=2), layer_norm_eps=3e-3,
    rope_parameters={
        "rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.25
    },
)  # fmt: skip
GPT_NEOX_SERIAL = transformers.GPTNeoXConfig(
    **SMALL, layer_norm_eps=3e-3, use_parallel_residual=False, attention_bias=False,
    hidden_act="gelu_new", tie_word_embeddings=True, dtype="float16",
    rope_parameters={
        "rope_type": "linear", "rope_theta": 300.0, "factor": 2.0,
        "partial_rotary_factor": 0.8,
    },
)  # fmt: skip
MISTRAL = transformers.MistralConfig(
    **GROUPED, head_dim=8, sliding_window=4,
    rope_parameters={"rope_type": "default", "rope_theta": 300.0},
)  # fmt: skip
WINDOWS = ["full_attention", "sliding_attention", "sliding_attention"]
QWEN2 = transformers.Qwen2Config(
    **GROUPED | dict(num_attention_heads=2, num_key_value_heads=1), dtype="bfloat16",
    use_sliding_window=True, sliding_window=5, max_window_layers=1,
    rope_parameters={"rope_type": "default", "rope_theta": 300.0},
)  # fmt: skip
QWEN3 = transformers.Qwen3Config(
    **GROUPED, head_dim=8, attention_bias=True, tie_word_embeddings=True,
    use_sliding_window=True, sliding_window=4, layer_types=WINDOWS[::-1],
    rope_parameters={"rope_type": "default", "rope_theta": 300.0},
)  # fmt: skip
GEMMA = transformers.GemmaConfig(
    **GROUPED | dict(num_key_value_heads=1), head_dim=8, attention_bias=True,
    rope_parameters={"rope_type": "default", "rope_theta": 300.0}, dtype="bfloat16",
)  # fmt: skip
GEMMA2 = transformers.Gemma2Config(
    **GROUPED, head_dim=8, query_pre_attn_scalar=5, sliding_window=4,
    attn_logit_softcapping=1.5, final_logit_softcapping=2.5,
    rope_parameters={"rope_type": "default", "rope_theta": 300.0},
)  # fmt: skip
GEMMA3 = transformers.Gemma3TextConfig(
    **GROUPED, head_dim=8, query_pre_attn_scalar=5, sliding_window=4,
    layer_types=WINDOWS, final_logit_softcapping=2.5, tie_word_embeddings=False,
    rope_parameters={
        "full_attention": {
            "rope_type": "linear", "rope_theta": 900.0, "factor": 4.0
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    },
)  # fmt: skip
OLMO2 = transformers.Olmo2Config(
    **GROUPED, attention_bias=True,
    rope_parameters={"rope_type": "default", "rope_theta": 300.0},
)  # fmt: skip
OLMO2.head_dim = 6  # read by the class, though its config has no such argument
SMOLLM3 = transformers.SmolLM3Config(
    **GROUPED | dict(num_attention_heads=2, num_key_value_heads=1), mlp_bias=True,
    no_rope_layer_interval=2, use_sliding_window=True, sliding_window=4,
    rope_parameters={"rope_type": "default", "rope_theta": 300.0}, dtype="bfloat16",
)  # fmt: skip
MODEL = transformers.AutoModelForCausalLM
CONFIGS = {
    "gpt2": GPT2,
    "llama_tied": LLAMA_TIED,
    "llama_biased": LLAMA_BIASED,
    "llama_yarn": LLAMA_YARN,
    "gpt_neox": GPT_NEOX,
    "gpt_neox_serial": GPT_NEOX_SERIAL,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "olmo2": OLMO2,
    "smollm3": SMOLLM3,
}
MODELS = {name: (MODEL, config) for name, config in CONFIGS.items()}
