"""The operations of the kernels. The rest of the package imports them here, and no implementation."""

from __future__ import annotations

from gdig.kernels.covariance import covariance, squared_gradients
from gdig.kernels.dense import halved, score_dense
from gdig.kernels.project import prepare_projection, project, project_inputs
from gdig.kernels.score import prepare_factors, score
from gdig.kernels.segments import Segments

__all__ = [
    "Segments",
    "covariance",
    "halved",
    "prepare_factors",
    "prepare_projection",
    "project",
    "project_inputs",
    "score",
    "score_dense",
    "squared_gradients",
]
