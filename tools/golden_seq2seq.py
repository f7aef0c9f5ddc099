"""The encoder-decoders of tests/golden: class and config of each; see make_golden.py.

    python tools/golden_seq2seq.py

writes tests/golden/relative.npz: the buckets of relative positions that T5's class
computes in float32, for many numbers of buckets and largest distances.
"""

import pathlib

import numpy as np
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

MODEL = transformers.AutoModelForSeq2SeqLM
FILE = pathlib.Path(__file__).parents[1] / "tests" / "golden" / "relative.npz"
DISTANCES = range(-600, 601)


class Untied:
    """A model of T5's kin with a head of its own, as T5 1.1, mT5 and UMT5 have it.

    transformers 5 ties the head at construction, and lets UMT5's class scale the hidden
    states as if it were tied; transformers 4.46.3 does neither.
    """

    @staticmethod
    def from_config(config, **kwargs):
        import torch

        model = MODEL.from_config(config, **kwargs)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        del model.all_tied_weights_keys["lm_head.weight"]
        model.config.tie_word_embeddings = False
        return model

    @staticmethod
    def from_pretrained(folder, **kwargs):
        model = MODEL.from_pretrained(folder, **kwargs)
        model.config.tie_word_embeddings = False
        return model


T5_SIZES = dict(
    vocab_size=61, d_model=14, d_kv=5, d_ff=20, num_layers=3, num_decoder_layers=2,
    num_heads=3, layer_norm_epsilon=2e-3, relative_attention_num_buckets=9,
    relative_attention_max_distance=8, decoder_start_token_id=0, eos_token_id=None,
)  # fmt: skip
BART_SIZES = dict(
    vocab_size=61, d_model=12, encoder_layers=3, encoder_ffn_dim=22,
    encoder_attention_heads=3, decoder_layers=2, decoder_ffn_dim=18,
    decoder_attention_heads=4, max_position_embeddings=29, decoder_start_token_id=2,
    bos_token_id=None, eos_token_id=None, forced_eos_token_id=None,
)  # fmt: skip
MODELS = {
    "t5": (MODEL, transformers.T5Config(**T5_SIZES)),
    "t5_v1_1": (
        Untied,
        transformers.T5Config(
            **T5_SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False
        ),
    ),
    "mt5": (Untied, transformers.MT5Config(**T5_SIZES)),
    "umt5": (
        Untied,
        transformers.UMT5Config(**T5_SIZES | {"feed_forward_proj": "gated-silu"}),
    ),
    "bart": (MODEL, transformers.BartConfig(**BART_SIZES)),
    "mbart": (MODEL, transformers.MBartConfig(**BART_SIZES, scale_embedding=True)),
    "marian": (
        MODEL,
        transformers.MarianConfig(
            **BART_SIZES, scale_embedding=True, activation_function="swish",
            pad_token_id=60,
        ),
    ),
    "marian_unshared": (
        MODEL,
        transformers.MarianConfig(
            **BART_SIZES, pad_token_id=50, decoder_vocab_size=67,
            share_encoder_decoder_embeddings=False,
        ),
    ),
}  # fmt: skip


def main() -> None:
    import torch

    arrays = {}
    distance = torch.tensor(DISTANCES)
    for num_buckets in (4, 5, 7, 8, 9, 12, 17, 31, 32, 33, 64, 127, 128):
        for max_distance in (3, 5, 8, 20, 64, 100, 128, 129, 256, 512):
            if max_distance <= num_buckets // 2:
                continue
            for bidirectional in (0, 1):
                name = f"{num_buckets}_{max_distance}_{bidirectional}"
                arrays[name] = T5Attention._relative_position_bucket(
                    distance, bool(bidirectional), num_buckets, max_distance
                ).numpy().astype(np.uint8)  # fmt: skip
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
