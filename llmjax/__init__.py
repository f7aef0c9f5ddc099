"""llmjax: a language model's whole life in JAX and Flax. Importing it costs nothing."""

__version__ = "0.4.0"
