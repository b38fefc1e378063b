"""Tensors and sketches on disk."""
