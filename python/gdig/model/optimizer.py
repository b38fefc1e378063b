"""Adam's moments from a training checkpoint, given to the parameters by name and shape."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from gdig.errors import ModelError
from gdig.model.layers import Layer
from gdig.store.atomic import replacing

FILES = ("optimizer.safetensors", "optimizer.pt", "optimizer.bin")
"""Names of the file with the optimizer's state in a checkpoint, in the order tried: moments by name (`save_moments`),
transformers' Trainer, accelerate."""

_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.|base_model\.model\.)+")


@dataclass(frozen=True)
class Moments:
    """Adam's state of one parameter: first and second moment in its shape, step, and the update's constants."""

    m: torch.Tensor
    v: torch.Tensor
    step: int
    betas: tuple[float, float]
    eps: float

    def direction(self, g: torch.Tensor) -> torch.Tensor:
        """Where Adam's next step would go if g were its gradient; g [n, ...] is overwritten.

        m' / (sqrt(v') + eps) with m' = (b1 m + (1 - b1) g) / (1 - b1^t), v' = (b2 v + (1 - b2) g^2) / (1 - b2^t),
        t = step + 1 (arXiv 2402.04333, definition 3.1; arXiv 1412.6980). Weight decay is left out: it is the same for
        every g.
        """
        (b1, b2), t = self.betas, self.step + 1
        scale1, scale2 = 1 - b1**t, 1 - b2**t
        v = g.square().mul_((1 - b2) / scale2).add_(self.v, alpha=b2 / scale2).sqrt_().add_(self.eps)
        return g.mul_((1 - b1) / scale1).add_(self.m, alpha=b1 / scale1).div_(v)


@dataclass(frozen=True)
class Adam:
    """Moments by the name of the parameter, and the learning rate that the state holds."""

    file: Path
    moments: dict[str, Moments]
    learning_rate: float

    def of_layer(self, layer: Layer, names: Mapping[int, str]) -> Moments | None:
        """A layer's moments [O, J], its bias in the last column; None when its weight was not trained.

        Args:
            layer: one of the model's.
            names: of the model's parameters, by their id.

        Raises:
            ModelError: when only one of weight and bias was trained.
        """
        parts = [layer.module.weight] + ([layer.module.bias] if layer.bias else [])
        found = [self.moments.get(canonical(names.get(id(part), ""))) for part in parts]
        kept = [one for one in found if one is not None]
        if not kept:
            return None
        if len(kept) != len(parts):
            raise ModelError(f"{self.file}: {layer.name}: has moments of one of weight and bias, expected both or none")

        def join(pick: Callable[[Moments], torch.Tensor]) -> torch.Tensor:
            weight = pick(kept[0])
            weight = weight.T if isinstance(layer.module, Conv1D) else weight
            columns = [weight] + [pick(one)[:, None] for one in kept[1:]]
            return torch.cat(columns, dim=1).to(layer.device, torch.float32).contiguous()

        first = kept[0]
        return Moments(join(lambda one: one.m), join(lambda one: one.v), first.step, first.betas, first.eps)


def canonical(name: str) -> str:
    """A parameter's name without what wrappers (DDP, torch.compile, PEFT) put before it or into it."""
    return _WRAPPERS.sub("", name).replace("._orig_mod.", ".").replace(".default.", ".")


def read_adam(folder: Path, module: nn.Module) -> Adam:
    """Read the optimizer's state in a checkpoint.

    States by name (`save_moments`, FSDP, a torch optimizer made with named parameters) are taken by name. Those of
    Trainer and accelerate number the parameters; which names the numbers stand for follows from how these libraries
    group a model's trained parameters. Either way every shape has to be its parameter's.

    Args:
        folder: the checkpoint's.
        module: the model that was loaded from it.

    Raises:
        ModelError: naming the file, and the parameter or group that does not fit this model.
    """
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        raise ModelError(
            f"{folder}: expected the optimizer's state in {', '.join(FILES)}, found none (of a sharded state write the "
            "moments by name with gdig.model.optimizer.save_moments)"
        )
    if file.suffix == ".safetensors":
        state, names, rate = _read_safetensors(file)
    else:
        state, names, rate = _read_torch(file, module)
    shapes = {canonical(name): tuple(p.shape) for name, p in module.named_parameters()}
    moments = {}
    for name, one in zip(names, state, strict=True):
        if name not in shapes:
            raise ModelError(f"{file}: {name}: the model has no such parameter; the state is of another model")
        for part, tensor in (("exp_avg", one.m), ("exp_avg_sq", one.v)):
            if tuple(tensor.shape) != shapes[name]:
                got, expected = list(tensor.shape), list(shapes[name])
                raise ModelError(f"{file}: {name}: {part}: expected the parameter's shape {expected}, got {got}")
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(f"{file}: {name}: {part}: expected finite numbers")
        if bool((one.v < 0).any()):
            raise ModelError(f"{file}: {name}: exp_avg_sq: expected numbers >= 0")
        moments[name] = one
    return Adam(file, moments, rate)


def save_moments(optimizer: torch.optim.Optimizer, model: nn.Module, path: str | Path) -> None:
    """Write the moments of an Adam or AdamW by parameter name, as `optimizer.safetensors` of a checkpoint.

    Args:
        optimizer: of `model`'s parameters, all in one state (not sharded).
        model: gives the names.
        path: the file; complete or not written at all.

    Raises:
        ModelError: when a parameter is not the model's or has no moments.
    """
    names = {id(p): canonical(name) for name, p in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {}
    told: dict[str, Any] = {"parameters": {}}
    for group in optimizer.param_groups:
        told.setdefault("learning_rate", float(group["lr"]))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if id(parameter) not in names:
                raise ModelError(f"a parameter of shape {list(parameter.shape)} is not among the model's")
            name = names[id(parameter)]
            if not {"exp_avg", "exp_avg_sq"} <= set(state):
                raise ModelError(f"{name}: expected Adam's exp_avg and exp_avg_sq, got {sorted(state) or 'no state'}")
            for part in ("exp_avg", "exp_avg_sq"):
                tensors[f"{name}.{part}"] = state[part].detach().cpu().contiguous()
            constants = {"step": int(state["step"]), "betas": list(group["betas"]), "eps": group["eps"]}
            told["parameters"][name] = constants
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, {"adam": json.dumps(told)})


def _read_safetensors(file: Path) -> tuple[list[Moments], list[str], float]:
    try:
        with safe_open(file, "pt") as opened:
            told = json.loads((opened.metadata() or {})["adam"])
            names = list(told["parameters"])
            state = [
                Moments(
                    opened.get_tensor(f"{name}.exp_avg").float(),
                    opened.get_tensor(f"{name}.exp_avg_sq").float(),
                    int(one["step"]),
                    (float(one["betas"][0]), float(one["betas"][1])),
                    float(one["eps"]),
                )
                for name, one in told["parameters"].items()
            ]
            return state, [canonical(name) for name in names], float(told["learning_rate"])
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read as moments by name (see save_moments): {error!r}") from None


def _read_torch(file: Path, module: nn.Module) -> tuple[list[Moments], list[str], float]:
    """Read a state_dict of an optimizer that torch saved; nothing but tensors and plain values is unpickled."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        groups, states = found["param_groups"], found["state"]
        ids = [list(group["params"]) for group in groups]
    except Exception as error:  # what the bytes of a damaged file lead to, torch does not say
        text = str(error).partition("\n")[0]
        raise ModelError(f"{file}: cannot be read as the state of a torch optimizer: {text}") from None
    names = _names(file, groups, ids, states, module)
    state = []
    for group, numbers, called in zip(groups, ids, names, strict=True):
        for number, name in zip(numbers, called, strict=True):
            one = states.get(number, {})
            if not {"exp_avg", "exp_avg_sq"} <= set(one):
                raise ModelError(
                    f"{file}: {name}: expected Adam's exp_avg and exp_avg_sq, got {sorted(one) or 'no state'}"
                )
            step, betas, eps = int(one.get("step", 1)), group.get("betas", (0.9, 0.999)), group.get("eps", 1e-8)
            state.append(Moments(one["exp_avg"].float(), one["exp_avg_sq"].float(), step, tuple(betas), float(eps)))
    return state, [name for called in names for name in called], float(groups[0].get("lr", 0.0))


def _names(
    file: Path, groups: Sequence[dict], ids: list[list[Any]], states: Mapping[Any, dict], module: nn.Module
) -> list[list[str]]:
    """Names of the parameters of each group.

    Raises:
        ModelError: when they cannot be told.
    """
    if all(isinstance(number, str) for numbers in ids for number in numbers):
        return [[canonical(number) for number in numbers] for numbers in ids]
    if all("param_names" in group for group in groups):
        return [[canonical(name) for name in group["param_names"]] for group in groups]
    shapes = [[tuple(states.get(n, {}).get("exp_avg", torch.empty(0)).shape) for n in numbers] for numbers in ids]
    nearest = ""
    # Rules that both fit say the same: where they differ, one has a matrix for what is a vector to the other.
    for rule, parts in _groupings(module):
        while len(parts) > len(ids) and not parts[-1]:
            parts = parts[:-1]
        if [len(part) for part in parts] != [len(numbers) for numbers in ids]:
            continue
        wrong = [
            (name, list(shape), list(p.shape))
            for part, called in zip(shapes, parts, strict=True)
            for shape, (name, p) in zip(part, called, strict=True)
            if shape != tuple(p.shape)
        ]
        if wrong:
            name, got, expected = wrong[0]
            nearest = f"; grouped {rule}, {name} would have moments of shape {got}, its own is {expected}"
            continue
        return [[canonical(name) for name, _ in part] for part in parts]
    sizes = ", ".join(str(len(numbers)) for numbers in ids)
    raise ModelError(
        f"{file}: numbers its parameters (groups of {sizes}), and they do not fit this model{nearest}. If it is this "
        "model's, write its moments by name with gdig.model.optimizer.save_moments"
    )


def _groupings(module: nn.Module) -> Iterator[tuple[str, list[list[tuple[str, nn.Parameter]]]]]:
    """How libraries group the parameters that were trained: an adapter's, where there is one, else all."""
    every = list(module.named_parameters())
    adapter = [(name, p) for name, p in every if "lora_" in name or ".modules_to_save." in name]
    trained = adapter or every
    normed = {
        f"{where}.{name}" if where else name
        for where, part in module.named_modules()
        if isinstance(part, nn.LayerNorm)
        for name, _ in part.named_parameters(recurse=False)
    }

    def split(decays: Callable[[str, nn.Parameter], bool]) -> list[list[tuple[str, nn.Parameter]]]:
        return [[x for x in trained if decays(*x)], [x for x in trained if not decays(*x)]]

    yield "as Trainer does", split(lambda name, _: name not in normed and not _NO_DECAY.search(name))
    yield "by number of dimensions", split(lambda _, p: p.dim() >= 2)
    yield "all in one", [trained]
