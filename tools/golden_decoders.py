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
MODEL = transformers.AutoModelForCausalLM
MODELS = {
    "gpt2": (MODEL, GPT2),
    "llama_tied": (MODEL, LLAMA_TIED),
    "llama_biased": (MODEL, LLAMA_BIASED),
}
