"""Every family of causal language models that transformers has, at gdig's defaults: right scores, or a clear refusal."""

from __future__ import annotations
