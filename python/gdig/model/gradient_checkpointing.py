"""Gradient checkpointing: a model's blocks compute their activations again in the backward pass, to save memory."""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from gdig.errors import ModelError


def enable_gradient_checkpointing(module: Any) -> bool:
    """Turn gradient checkpointing on. Returns whether the model has blocks that offer it.

    transformers computes again in training only. So the blocks are set to training, and what is in them (dropout) is
    not.
    """
    blocks = blocks_to_recompute(module)
    if not blocks:
        return False
    # The name in transformers 5, then the name before.
    name = "activation_checkpointing_enable"
    enable = getattr(module, name, None) or module.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for inner in module.modules():
        # transformers lets the embeddings require a gradient, which reentrant checkpointing needs. Here the backward
        # pass would go on to them, below the lowest chosen layer.
        if hasattr(inner, "_require_grads_hook"):
            inner.disable_input_require_grads()
    for block in blocks:
        block.training = True
    return True


def require_gradient_checkpointing(module: Any) -> None:
    """Turn gradient checkpointing on.

    Raises:
        ModelError: when the model does not offer it.
    """
    if not enable_gradient_checkpointing(module):
        raise ModelError(f"gradient_checkpointing: {type(module).__name__} does not offer it; leave the option off")


def has_gradient_checkpointing(module: Any) -> bool:
    """Whether gradient checkpointing is on."""
    return any(getattr(block, "gradient_checkpointing", False) for block in blocks_to_recompute(module))


def blocks_to_recompute(module: Any) -> list[Any]:
    """The blocks that can compute their activations again."""
    return [block for block in module.modules() if isinstance(block, GradientCheckpointingLayer)]
