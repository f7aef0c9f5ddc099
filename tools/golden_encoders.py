"""The encoders of tests/golden: class and config of each; see make_golden.py."""

import transformers

SIZES = dict(
    vocab_size=61, hidden_size=24, intermediate_size=40, num_attention_heads=4,
    bos_token_id=None, eos_token_id=None,
)  # fmt: skip
BERT = transformers.BertConfig(
    **SIZES, num_hidden_layers=2, max_position_embeddings=17, type_vocab_size=3,
    layer_norm_eps=3e-3, hidden_act="gelu",
)  # fmt: skip
BERT_POOLED = transformers.BertConfig(
    **SIZES, num_hidden_layers=2, max_position_embeddings=17, type_vocab_size=2,
    layer_norm_eps=2e-3, hidden_act="gelu_new", dtype="bfloat16",
)  # fmt: skip
BERT_CLASSES = transformers.BertConfig(
    **SIZES, num_hidden_layers=2, max_position_embeddings=17, type_vocab_size=2,
    layer_norm_eps=2e-3, num_labels=5,
)  # fmt: skip
ROBERTA = transformers.RobertaConfig(
    **SIZES, num_hidden_layers=2, max_position_embeddings=19, type_vocab_size=1,
    layer_norm_eps=3e-3, hidden_act="relu", pad_token_id=3, tie_word_embeddings=False,
)  # fmt: skip
ROBERTA_CLASSES = transformers.RobertaConfig(
    **SIZES, num_hidden_layers=2, max_position_embeddings=19, type_vocab_size=2,
    layer_norm_eps=3e-3, pad_token_id=1, num_labels=1,
)  # fmt: skip
MODERN_SIZES = SIZES | dict(
    hidden_size=16, num_hidden_layers=4, intermediate_size=20, cls_token_id=None,
    sep_token_id=None, pad_token_id=0, max_position_embeddings=64,
)  # fmt: skip
MODERNBERT = transformers.ModernBertConfig(
    **MODERN_SIZES, local_attention=6, global_attn_every_n_layers=2, norm_eps=3e-3,
    rope_parameters={
        "full_attention": {"rope_type": "default", "rope_theta": 700.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
    },
)  # fmt: skip
MODERNBERT_CLASSES = transformers.ModernBertConfig(
    **MODERN_SIZES, local_attention=5, norm_eps=3e-3, norm_bias=True,
    attention_bias=True, mlp_bias=True, classifier_bias=True, num_labels=3,
    classifier_pooling="mean", classifier_activation="silu",
)  # fmt: skip

PLAIN = transformers.AutoModel
MASKED = transformers.AutoModelForMaskedLM
CLASSES = transformers.AutoModelForSequenceClassification
MODELS = {
    "bert": (MASKED, BERT),
    "bert_pooled": (PLAIN, BERT_POOLED),
    "bert_classes": (CLASSES, BERT_CLASSES),
    "roberta": (MASKED, ROBERTA),
    "roberta_classes": (CLASSES, ROBERTA_CLASSES),
    "modernbert": (MASKED, MODERNBERT),
    "modernbert_classes": (CLASSES, MODERNBERT_CLASSES),
}
