"""The operations of the kernels. The rest of the package imports them here, and no implementation."""

from __future__ import annotations

from gdig.kernels.covariance import (
    covariance,
    covariance_bands,
    from_triangle,
    squared_gradients,
    triangle,
    triangle_numbers,
)
from gdig.kernels.cross_entropy import cross_entropy, loss_gradient
from gdig.kernels.dense import halved, score_dense
from gdig.kernels.dispatch import resolve
from gdig.kernels.project import prepare_projection, project, project_inputs
from gdig.kernels.score import prepare_factors, score
from gdig.kernels.segments import Segments

__all__ = [
    "Segments",
    "covariance",
    "covariance_bands",
    "cross_entropy",
    "from_triangle",
    "halved",
    "loss_gradient",
    "prepare_factors",
    "prepare_projection",
    "project",
    "project_inputs",
    "resolve",
    "score",
    "score_dense",
    "squared_gradients",
    "triangle",
    "triangle_numbers",
]
