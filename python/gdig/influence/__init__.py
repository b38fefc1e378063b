"""The curvature, the preconditioned seeds, and the scores of rows."""
