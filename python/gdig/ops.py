"""The only door to the kernels: the stages call these and know nothing of implementations."""

from __future__ import annotations

from gdig.kernels.covariance import covariance, squared_gradients
from gdig.kernels.project import project
from gdig.kernels.score import score

__all__ = ["covariance", "project", "score", "squared_gradients"]
