"""The device of a model, and arrays on their way to it."""

from __future__ import annotations

import numpy as np
import torch

from gdig.errors import ConfigError


def resolve_device(option: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:N" into a device that exists.

    Raises:
        ConfigError: when the device does not exist.
    """
    if option == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(option)
    except RuntimeError:
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {option!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {option!r} asked for, but torch sees {torch.cuda.device_count()} CUDA devices; "
            "take auto or cpu, or a torch that is built for the driver"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {option!r}")
    return device


def to_device(x: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy an array to a device. The way to CUDA is through pinned memory, so that the CPU does not wait."""
    tensor = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_cuda else tensor.pin_memory()).to(device, non_blocking=True)
