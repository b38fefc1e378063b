"""The tests' dense float64 reference: gradients by plain autograd, the damped Hessian as one matrix, solved."""

from __future__ import annotations

import numpy as np
import torch

from benches.parity_parts.parity_cases import Case, Project  # puts tests/ on the path
from tests.support.oracle import all_captured, influence


def scores(project: Project, case: Case, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """Influence float64 [rows, seeds].

    With `dtype` float32 the model's pass alone is float32, so the difference is what that rounding costs, whoever
    computes the rest.
    """
    module, layers, pool = project.module(dtype), project.layers, project.pool
    pairs = all_captured(module, layers, pool, project.seeds, pool, case.loss_reduction)
    return influence(pairs, case.inversion, case.damping_mode, case.damping_factor)
