"""The operations of the kernels. The rest of the package imports them here, and no implementation."""

from __future__ import annotations

from gdig.kernels.covariance import (
    covariance,
    covariance_bands,
    covariance_experts,
    from_triangle,
    squared_gradients,
    squared_gradients_experts,
    triangle,
    triangle_numbers,
)
from gdig.kernels.cross_entropy import cross_entropy, loss_gradient
from gdig.kernels.dense import halved, score_dense, score_dense_experts
from gdig.kernels.dispatch import resolve
from gdig.kernels.expert_rows import ExpertRows
from gdig.kernels.project import (
    prepare_expert_projections,
    prepare_projection,
    project,
    project_experts,
    project_inputs,
)
from gdig.kernels.score import prepare_expert_factors, prepare_factors, score, score_experts
from gdig.kernels.segments import Segments

__all__ = [
    "ExpertRows",
    "Segments",
    "covariance",
    "covariance_bands",
    "covariance_experts",
    "cross_entropy",
    "from_triangle",
    "halved",
    "loss_gradient",
    "prepare_expert_factors",
    "prepare_expert_projections",
    "prepare_factors",
    "prepare_projection",
    "project",
    "project_experts",
    "project_inputs",
    "resolve",
    "score",
    "score_dense",
    "score_dense_experts",
    "score_experts",
    "squared_gradients",
    "squared_gradients_experts",
    "triangle",
    "triangle_numbers",
]
