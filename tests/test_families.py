"""Every family of causal language models that transformers has, at gdig's defaults: right scores, or a clear refusal."""

from __future__ import annotations

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gdig.config.config import Config
from gdig.errors import ModelError
from gdig.model.causal_model import Model, wrap_model
from tests.support.families import tiny_model
from tests.support.identity_scores import OPTIONS, compare_with_autograd
