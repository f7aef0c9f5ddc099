"""Flax cells: parameters by name, and what they do."""
