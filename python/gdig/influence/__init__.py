"""Curvature, preconditioned seeds, and the scores made of them."""
