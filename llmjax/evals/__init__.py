"""Measures of what a trained model does, beyond its loss."""
