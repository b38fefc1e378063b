"""Load a causal language model or an adapter from a directory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils import logging

from gdig.config.config import Config
from gdig.errors import ConfigError, GdigError, MissingPackageError, ModelError
from gdig.model.adapter import check_patterns, is_adapter, require_safetensors, resize_vocabulary
from gdig.model.causal_model import Model, wrap_model
from gdig.model.device import resolve_device
from gdig.model.directory import (
    architecture_directory,
    has_safetensors,
    model_directory,
    named_directory,
    require_few_layers,
)
from gdig.model.gradient_checkpointing import require_gradient_checkpointing
from gdig.model.precision import resolve_dtype


def load_model(config: Config, architecture: str | None = None) -> Model:
    """Load and freeze the directory `config.model`: a model, or a PEFT adapter, which names its base model.

    Args:
        config: options of loading.
        architecture: the directory whose config.json describes `config.model`, when that has none of its own
            (checkpoints of accelerate).

    Raises:
        ModelError: when the directory is missing or holds no causal language model, or no layer matches.
    """
    device = resolve_device(config.device)
    module, adapter = _load(config, resolve_dtype(config.precision, device), device, architecture)
    if config.device_map == "none" and config.quantization == "none":
        module = module.to(device)
    return wrap_model(module, config, adapter=adapter)


def load_trainable(config: Config) -> nn.Module:
    """Load the directory `config.model` for training, in float32. Of an adapter, the adapter's weights train alone.

    Raises:
        ModelError: when the directory is missing, or holds no causal language model or quantized weights.
        ConfigError: when the options ask for quantized weights or for several devices.
    """
    for name in ("device_map", "quantization"):
        if getattr(config, name) != "none":
            raise ConfigError(f"{name}: a model is trained with {name}=none only, got {getattr(config, name)!r}")
    module, _ = _load(config, torch.float32, resolve_device(config.device), None, trainable=True)
    if getattr(module, "is_quantized", False):
        raise ModelError(
            f"{model_directory(config)}: expected plain weights, because training starts in float32, but these are "
            "quantized; give the directory of the model before it was quantized"
        )
    if config.gradient_checkpointing:
        require_gradient_checkpointing(module)
    return module


def empty_module(config: Config, architecture: str | None = None) -> nn.Module | None:
    """Return the module of a model without its weights, on the device "meta": names and shapes of its parameters.

    None for an adapter, for quantized weights, and where transformers cannot make the module: its loading says why.
    """
    base = model_directory(config)
    if config.quantization != "none" or is_adapter(named_directory(config)):
        return None
    try:
        options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
        described = AutoConfig.from_pretrained(
            architecture_directory(base, config, architecture), local_files_only=True, **options
        )
        require_few_layers(base, described.get_text_config())
        _forget_gguf(described)
        if getattr(described, "quantization_config", None) is not None:
            return None
        with torch.device("meta"):
            made: nn.Module = _auto_class(described).from_config(described, **options)
            return made
    except Exception:
        return None


def require_package(package: str, option: str, extra: str) -> None:
    """Raise ModelError when a package that `option` needs is not installed; `extra` of gdig installs it."""
    if find_spec(package) is None:
        raise MissingPackageError(f"{option}: needs the package {package} (pip install 'gdig[{extra}]')")


@contextmanager
def loading_bars(shown: bool) -> Iterator[None]:
    """Unless `shown`, hide the bars that transformers draws while it loads weights. Its setting is restored."""
    before = logging.is_progress_bar_enabled()
    if not shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def _load(
    config: Config, dtype: torch.dtype, device: torch.device, architecture: str | None, trainable: bool = False
) -> tuple[nn.Module, bool]:
    """Return the module, and whether it is an adapter around its base model."""
    base = model_directory(config)
    path = named_directory(config)
    try:
        with loading_bars(not config.quiet):
            module = _load_base(base, dtype, config, device, architecture_directory(base, config, architecture))
        if is_adapter(path):
            module = _load_adapter(path, module, trainable)
    except GdigError:
        raise
    except Exception as error:  # transformers and the library of its configurations raise many kinds of errors
        reason = str(error) or type(error).__name__
        raise ModelError(f"{path}: cannot be loaded as a causal language model: {reason}") from error
    return module, is_adapter(path)


def _load_base(path: Path, dtype: torch.dtype, config: Config, device: torch.device, architecture: Path) -> nn.Module:
    """Load a model that is no adapter."""
    options: dict[str, Any] = {
        "trust_remote_code": config.trust_remote_code,
        "local_files_only": True,
        "output_loading_info": True,
    }
    if config.device_map != "none":
        require_package("accelerate", "device_map", "large")
        options["device_map"] = config.device_map
    if config.quantization != "none":
        require_package("bitsandbytes", "quantization", "quantization")
        options.setdefault("device_map", {"": device})
        options["quantization_config"] = _quantization(config, dtype)
    options["config"] = AutoConfig.from_pretrained(
        architecture, trust_remote_code=config.trust_remote_code, local_files_only=True
    )
    require_few_layers(architecture, options["config"].get_text_config())
    _forget_gguf(options["config"])
    loaded: Any = _auto_class(options["config"]).from_pretrained(
        path, dtype=dtype, use_safetensors=has_safetensors(path), **options
    )
    module, loading_info = loaded
    _disable_fast_4bit(module)
    if missing := sorted(loading_info["missing_keys"]):
        # transformers makes these up at random, and the selection would be noise.
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(f"{path}: expected all weights of {type(module).__name__}, found none of {shown}")
    return module


def _forget_gguf(architecture: PretrainedConfig) -> None:
    """Remove the note that a model was read from a GGUF file, which transformers 5 leaves in what it saves.

    The weights are in safetensors, so they are plain. transformers takes them for quantized and refuses to train them.
    """
    noted = getattr(architecture, "quantization_config", None)
    method = noted.get("quant_method") if isinstance(noted, dict) else getattr(noted, "quant_method", None)
    if method == "gguf":
        del architecture.quantization_config


def _auto_class(architecture: PretrainedConfig) -> Any:
    """The class that loads a model: as an image-text model where transformers has no causal language model of a kind.

    Such a model (Qwen2.5-VL, say) takes text alone as well.
    """
    kind = architecture.model_type
    has_own = "AutoModelForCausalLM" in (getattr(architecture, "auto_map", None) or {})
    if has_own or kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForCausalLM
    return AutoModelForImageTextToText


def _quantization(config: Config, dtype: torch.dtype) -> BitsAndBytesConfig:
    # bitsandbytes warns at every product that it computes in float16.
    getLogger("bitsandbytes.autograd._functions").setLevel(ERROR)
    return BitsAndBytesConfig(
        load_in_8bit=config.quantization == "8bit",
        load_in_4bit=config.quantization == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )


def _disable_fast_4bit(model: Any) -> None:
    """Turn off a fast kernel of bitsandbytes 0.50 for 4 bits on the CPU, which has no derivative.

    The first pass without gradients would switch to the kernel for good, and every later gradient would be wrong
    without a word.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def without_peft_warning() -> Iterator[None]:
    """Leave out that peft asks a model for a property which transformers 5.24 calls deprecated: no user can mend it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _load_adapter(path: Path, base: nn.Module, trainable: bool = False) -> nn.Module:
    """Put the PEFT adapter in `path` around its base model."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingPackageError(
            f"{path}: a PEFT adapter needs the package peft (pip install 'gdig[peft]')"
        ) from error
    require_safetensors(path)
    check_patterns(path, base)
    resize_vocabulary(base, path)
    with without_peft_warning():
        return PeftModel.from_pretrained(base, path, is_trainable=trainable)
