"""From text on disk to batches of token ids. numpy only: data never imports jax.

sources -> tokenizer -> store -> pack -> mixture -> batches -> prefetch; `corpus` joins
the first four.
"""
