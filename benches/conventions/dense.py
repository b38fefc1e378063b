"""The tests' dense float64 reference: gradients by plain autograd, the damped Hessian as one matrix, solved."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from conventions.inputs import Case, Project

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

import oracle
from tiny_models import without_float32_norms


def scores(project: Project, case: Case, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """Influence float64 [rows, seeds].

    With `dtype` float32 the model's pass alone is float32, so the difference is what that rounding costs, whoever
    computes the rest.
    """
    module = project.module()
    module = module if dtype == torch.float32 else without_float32_norms(module).to(dtype)
    return oracle.influence(
        module, project.layers, project.pool, project.seeds, project.pool, inversion=case.inversion,
        damping_mode=case.damping_mode, damping=case.damping_factor, reduction=case.loss_reduction,
    )  # fmt: skip
