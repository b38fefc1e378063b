"""Load a causal language model, frozen, and find its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from gdig.config.config import Config
from gdig.errors import ConfigError, ModelError
from gdig.model.compiled import CompiledPass
from gdig.model.layers import Layer, choose_layers, share_inputs


@dataclass(frozen=True)
class Model:
    """A frozen causal language model and what the passes need to know of it.

    `base` gives the last hidden states, `head` the logits of some of them; `head` is None when the model does more
    between the two than a matrix product (a soft cap, a scale): then the logits come from the whole model.
    """

    module: nn.Module
    base: nn.Module
    head: nn.Module | None
    layers: list[Layer]
    device: torch.device
    dtype: torch.dtype
    window: int | None
    vocab_size: int
    compiled: CompiledPass | None = None

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, L, H] of ids [B, L]; without `head`, the logits [B, L, V]."""
        return _hidden(self.base if self.head is not None else self.module, self.head is not None, ids)

    def save_memory(self) -> bool:
        """Turn gradient checkpointing on; False if it is on already, or the model's blocks do not offer it, or the
        pass is compiled without it."""
        if self.compiled is not None:
            return False
        on = any(getattr(block, "gradient_checkpointing", False) for block in _blocks(self.module))
        return not on and use_checkpointing(self.module)


@dataclass(frozen=True)
class Limits:
    """What the model takes: longest input in tokens (None: no limit is stated) and size of the vocabulary."""

    window: int | None
    vocab_size: int | None


def read_limits(config: Config) -> Limits:
    """Read the model's limits from its configuration, without loading its weights.

    Raises:
        ModelError: when the directory is missing or holds no model configuration.
    """
    path = model_directory(config)
    try:
        found = AutoConfig.from_pretrained(path, trust_remote_code=config.trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: cannot be read as a model: {error}") from error
    text = found.get_text_config()
    return Limits(getattr(text, "max_position_embeddings", None), getattr(text, "vocab_size", None))


def model_directory(config: Config) -> Path:
    """The directory with the weights: `config.model`, or the base model that an adapter there names.

    Raises:
        ModelError: when it is missing.
    """
    config.require("model")
    path = Path(str(config.model))
    if not path.is_dir():
        raise ModelError(f"{path}: expected a directory with a model in Hugging Face format, found none")
    adapter = path / "adapter_config.json"
    if not adapter.is_file():
        return path
    try:
        named = str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{adapter}: expected a JSON object with base_model_name_or_path: {error!r}") from None
    base = next((p for p in (Path(named), path / named) if p.is_dir()), None)
    if base is None:
        raise ModelError(f"{adapter}: base_model_name_or_path: expected a directory, got {named!r}")
    return base


def resolve_device(text: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:N" into a device that is there.

    Raises:
        ConfigError: when it is not.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {text!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {text!r} asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {text!r}")
    return device


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype that `precision` means on `device`."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def load_model(config: Config, architecture: str | None = None) -> Model:
    """Load the directory `config.model`: a model, or a PEFT adapter (its base model is named in it).

    Args:
        config: options of loading.
        architecture: directory whose config.json holds for one that has none of its own (accelerate's checkpoints).

    Raises:
        ModelError: when the directory is missing, is no causal language model, or no layer matches.
    """
    device = resolve_device(config.device)
    module, adapter = _load(config, resolve_dtype(config.precision, device), device, architecture)
    if config.device_map == "none" and config.quantization == "none":
        module = module.to(device)
    return wrap_model(module, config, adapter=adapter)


def load_trainable(config: Config) -> nn.Module:
    """Load the directory `config.model` to be trained: in float32, all weights of a model, or an adapter's own.

    Raises:
        ModelError: when the directory is missing, or is no causal language model.
        ConfigError: when the options want its weights quantized or spread.
    """
    for name in ("device_map", "quantization"):
        if getattr(config, name) != "none":
            raise ConfigError(f"{name}: a model is trained with {name}=none only, got {getattr(config, name)!r}")
    module, _ = _load(config, torch.float32, resolve_device(config.device), None, trainable=True)
    if config.gradient_checkpointing and not use_checkpointing(module):
        raise ModelError(f"gradient_checkpointing: {type(module).__name__} does not offer it")
    return module


def _load(
    config: Config, dtype: torch.dtype, device: torch.device, architecture: str | None, trainable: bool = False
) -> tuple[nn.Module, bool]:
    """The module, and whether it is an adapter around its base model."""
    base = model_directory(config)
    path = Path(str(config.model))
    try:
        with loading_bars(not config.quiet):
            module = _load_plain(base, dtype, config, device, _architecture(base, config, architecture))
        if base != path:
            module = _load_adapter(path, module, trainable)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be loaded as a causal language model: {error}") from error
    return module, base != path


def wrap_model(module: Any, config: Config, *, adapter: bool = False) -> Model:
    """Freeze a loaded model and find its parts. The module keeps its device and dtype."""
    module.eval().requires_grad_(False)
    if config.gradient_checkpointing and not use_checkpointing(module):
        raise ModelError(f"gradient_checkpointing: {type(module).__name__} does not offer it")
    inner = module.get_base_model() if adapter else module
    head = inner.get_output_embeddings()
    base = inner.base_model
    if head is None or base is inner:
        raise ModelError(f"{type(inner).__name__}: expected a causal language model with a base and an output head")
    layers = choose_layers(module, config.filter_modules, head=head, adapter=adapter, paper=config.preset == "paper")
    weight = head.weight
    exact = _head_is_plain(inner, base, head)
    ids = _trial_ids(inner)
    with torch.no_grad():
        layers = share_inputs(layers, lambda: base(input_ids=ids, use_cache=False))
    device = inner.get_input_embeddings().weight.device
    compiled = None
    if config.torch_compile:
        compiled = CompiledPass(partial(_hidden, base if exact else inner, exact), layers, device)
    return Model(
        module=inner,
        base=base,
        head=head if exact else None,
        layers=layers,
        device=device,
        dtype=weight.dtype,
        window=getattr(inner.config.get_text_config(), "max_position_embeddings", None),
        vocab_size=inner.get_input_embeddings().weight.shape[0],
        compiled=compiled,
    )


def _hidden(module: Any, plain: bool, ids: torch.Tensor) -> torch.Tensor:
    """What a model gives for ids [B, L]: `plain`, hidden states [B, L, H], else logits [B, L, V]."""
    out = module(input_ids=ids, use_cache=False)
    return out.last_hidden_state if plain else out.logits


@contextmanager
def loading_bars(shown: bool) -> Iterator[None]:
    """Without `shown`, keep transformers from drawing bars while it loads weights; its own setting is put back."""
    before = logging.is_progress_bar_enabled()
    if not shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def use_checkpointing(module: Any) -> bool:
    """Let the model's blocks compute their activations again in the backward pass. Returns whether it has such blocks.

    transformers does so in training only; the blocks alone are told that they train, what is in them (dropout) is not.
    """
    blocks = _blocks(module)
    if not blocks:
        return False
    # transformers 5 has a new name for it.
    name = "activation_checkpointing_enable"
    enable = getattr(module, name, None) or module.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for block in blocks:
        block.training = True
    return True


def _blocks(module: Any) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]


def _architecture(path: Path, config: Config, other: str | None) -> Path:
    """The directory whose config.json says what the weights in `path` are of."""
    if other is None or (path / "config.json").is_file():
        return path
    return model_directory(config.with_options(model=other))


def _load_plain(path: Path, dtype: torch.dtype, config: Config, device: torch.device, architecture: Path) -> nn.Module:
    options: dict[str, Any] = {
        "trust_remote_code": config.trust_remote_code,
        "local_files_only": True,
        "output_loading_info": True,
    }
    if config.device_map != "none":
        need("accelerate", "device_map", "large")
        options["device_map"] = config.device_map
    if config.quantization != "none":
        need("bitsandbytes", "quantization", "quantization")
        options.setdefault("device_map", {"": device})
        # It says at every product that it computes in float16.
        getLogger("bitsandbytes.autograd._functions").setLevel(ERROR)
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=config.quantization == "8bit",
            load_in_4bit=config.quantization == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    if architecture != path:
        remote = config.trust_remote_code
        options["config"] = AutoConfig.from_pretrained(architecture, trust_remote_code=remote, local_files_only=True)
    safetensors = _has_safetensors(path)
    found: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=safetensors, **options)
    module, loaded = found
    for part in module.modules():
        # bitsandbytes 0.50 has a fast kernel for 4 bits on the CPU that has no derivative: the first pass that needs
        # none would switch to it for good, and every gradient after that would be wrong without a word.
        if getattr(part, "support_avx512bf16_for_cpu", False):
            part.support_avx512bf16_for_cpu = False
    if missing := sorted(loaded["missing_keys"]):
        # transformers makes these up at random, and the selection would be noise.
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(f"{path}: the checkpoint lacks weights of {type(module).__name__}: {shown}")
    return module


def need(package: str, what: str, extra: str) -> None:
    """Raise ModelError if a package is not installed that `what` needs."""
    if find_spec(package) is None:
        raise ModelError(f"{what}: needs the package {package} (pip install 'gdig[{extra}]')")


def _load_adapter(path: Path, module: nn.Module, trainable: bool = False) -> nn.Module:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(f"{path}: a PEFT adapter needs the package peft (pip install 'gdig[peft]')") from error
    return PeftModel.from_pretrained(module, path, is_trainable=trainable)


def _has_safetensors(path: Path) -> bool:
    """Whether the weights are safetensors; the alternative is a pickle, which is refused."""
    if any(path.glob("*.safetensors")):
        return True
    raise ModelError(f"{path}: expected weights in *.safetensors, found none (pickled weights are not loaded)")


@torch.no_grad()
def _head_is_plain(module: nn.Module, base: nn.Module, head: Any) -> bool:
    """Whether head(base(ids)) is what the model says, tried on a few tokens."""
    ids = _trial_ids(module)
    whole = module(input_ids=ids, use_cache=False).logits
    parts = head(base(input_ids=ids, use_cache=False).last_hidden_state).to(whole.device)
    return whole.shape == parts.shape and torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-3)


def _trial_ids(inner: Any) -> torch.Tensor:
    """A few tokens to try a model on: int64 [1, 8]."""
    weight = inner.get_input_embeddings().weight
    return torch.arange(1, 9, device=weight.device)[None] % weight.shape[0]
