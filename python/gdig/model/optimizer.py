"""Adam's moments from a training checkpoint, by the names of the parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from gdig.errors import GdigError, ModelError, OptimizerStateError
from gdig.model.experts import as_experts
from gdig.model.layers import Layer
from gdig.model.optimizer_names import canonical, parameter_names
from gdig.store.atomic import replacing

FILES = ("optimizer.safetensors", "optimizer.pt", "optimizer.bin")
"""Names of the file with the optimizer's state in a checkpoint, in the order tried.

The first has moments by name (`save_moments`), the second is of transformers' Trainer, the third of accelerate.
"""


@dataclass(frozen=True)
class Moments:
    """Adam's state of one parameter.

    Attributes:
        m: first moment, in the parameter's shape. v: second moment.
        step: how many updates there were.
        betas, eps: constants of the update.
    """

    m: torch.Tensor
    v: torch.Tensor
    step: int
    betas: tuple[float, float]
    eps: float

    def direction(self, g: torch.Tensor) -> torch.Tensor:
        """The direction of Adam's next step for the gradient g [n, ...], which is overwritten.

        The direction is `m' / (sqrt(v') + eps)` with `m' = (b1 m + (1 - b1) g) / (1 - b1^t)`,
        `v' = (b2 v + (1 - b2) g^2) / (1 - b2^t)` and `t = step + 1` (arXiv 2402.04333, definition 3.1; arXiv
        1412.6980). Weight decay is the same for every g, and is left out.
        """
        (b1, b2), t = self.betas, self.step + 1
        scale1, scale2 = 1 - b1**t, 1 - b2**t
        v = g.square().mul_((1 - b2) / scale2).add_(self.v, alpha=b2 / scale2).sqrt_().add_(self.eps)
        return g.mul_((1 - b1) / scale1).add_(self.m, alpha=b1 / scale1).div_(v)


@dataclass(frozen=True)
class Adam:
    """Moments by the name of the parameter, and the learning rate in the file."""

    file: Path
    moments: dict[str, Moments]
    learning_rate: float

    def of_layer(self, layer: Layer, names: Mapping[int, str]) -> Moments | None:
        """A layer's moments [O, J], with the bias in the last column; None when the layer was not trained.

        Args:
            layer: a layer of the model.
            names: names of the model's parameters, by id().

        Raises:
            ModelError: when only one of weight and bias was trained.
        """
        parameters, number, transposed = _parameters(layer)
        stored = [self.moments.get(canonical(names.get(id(parameter), ""))) for parameter in parameters]
        trained = [moments for moments in stored if moments is not None]
        if not trained:
            return None
        if len(trained) != len(parameters):
            raise OptimizerStateError(
                f"{self.file}: {layer.name}: has moments of one of weight and bias, expected both or none"
            )

        def join(moment: Callable[[Moments], torch.Tensor]) -> torch.Tensor:
            weight, *biases = (moment(x) if number is None else moment(x)[number] for x in trained)
            columns = [weight.T if transposed else weight] + [bias[:, None] for bias in biases]
            return torch.cat(columns, dim=1).to(layer.device, torch.float32).contiguous()

        first = trained[0]
        return Moments(join(lambda x: x.m), join(lambda x: x.v), first.step, first.betas, first.eps)


def _parameters(layer: Layer) -> tuple[list[nn.Parameter], int | None, bool]:
    """The parameters of weight and bias; the number of an expert in those of all; whether weights lie [I, O]."""
    module: Any = layer.module
    if layer.expert is None:
        parameters = [module.weight] + ([module.bias] if layer.bias else [])
        return parameters, None, isinstance(module, Conv1D)
    experts = as_experts(layer.name, module)
    assert experts is not None
    matrix = next(x for x in experts.matrices if x.parameter == layer.expert.parameter)
    names = [matrix.parameter] + ([matrix.bias] if matrix.bias else [])
    return [getattr(module, name) for name in names], layer.expert.number, matrix.transposed


def check_adam(folder: Path, module: nn.Module | None) -> float:
    """Check the optimizer's state in a checkpoint without reading its moments, and return its learning rate.

    Args:
        folder: the checkpoint's directory.
        module: the model that was trained, which may be on the device "meta"; None where it is not known: then the
            names and shapes of the moments are not compared with it.

    Raises:
        ModelError: as `read_adam`, but for numbers that are not finite or below 0.
    """
    file = _state_file(folder)
    if file.suffix == ".safetensors":
        state, names, rate = _read_safetensors(file, values=False)
    else:
        with _explained(file):
            groups, states, ids = _open_torch(file)
            if module is None:
                return float(groups[0].get("lr", 0.0))
            state, names, rate = _of_torch(file, module, groups, states, ids, values=False)
    if module is not None:
        _check_shapes(file, names, state, module)
    return rate


def read_adam(folder: Path, module: nn.Module) -> Adam:
    """Read the optimizer's state in a checkpoint.

    `save_moments`, FSDP and torch optimizers made with named parameters store states by name. Trainer and accelerate
    store states by number; the names follow from how these libraries group a model's parameters. In both cases every
    moment must have its parameter's shape.

    Args:
        folder: the checkpoint's directory.
        module: the model that was loaded from it.

    Raises:
        ModelError: naming the file, and the parameter or group that does not fit this model.
    """
    file = _state_file(folder)
    if file.suffix == ".safetensors":
        state, names, rate = _read_safetensors(file)
    else:
        with _explained(file):
            state, names, rate = _of_torch(file, module, *_open_torch(file))
    _check_shapes(file, names, state, module)
    moments = {}
    for name, stored in zip(names, state, strict=True):
        for key, tensor in (("exp_avg", stored.m), ("exp_avg_sq", stored.v)):
            if not bool(torch.isfinite(tensor).all()):
                raise OptimizerStateError(f"{file}: {name}: {key}: expected finite numbers")
        if bool((stored.v < 0).any()):
            raise OptimizerStateError(f"{file}: {name}: exp_avg_sq: expected numbers >= 0")
        moments[name] = stored
    return Adam(file, moments, rate)


def _state_file(folder: Path) -> Path:
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        raise OptimizerStateError(
            f"{folder}: expected the optimizer's state in {', '.join(FILES)}, found none; if the state is sharded, "
            "write its moments by name with gdig.model.optimizer.save_moments"
        )
    return file


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except GdigError:
        raise
    except Exception as error:  # the plain values in the file may be of any kind
        raise OptimizerStateError(f"{file}: is not the state of an Adam of this model: {error!r:.200}") from None


def _check_shapes(file: Path, names: list[str], state: list[Moments], module: nn.Module) -> None:
    """Raise ModelError if a moment is of no parameter of the model, or of another shape."""
    shapes = {canonical(name): tuple(p.shape) for name, p in module.named_parameters()}
    for name, stored in zip(names, state, strict=True):
        if name not in shapes:
            raise OptimizerStateError(f"{file}: {name}: the model has no such parameter; the state is of another model")
        for key, tensor in (("exp_avg", stored.m), ("exp_avg_sq", stored.v)):
            if tuple(tensor.shape) != shapes[name]:
                got, expected = list(tensor.shape), list(shapes[name])
                raise OptimizerStateError(
                    f"{file}: {name}: {key}: expected the parameter's shape {expected}, got {got}"
                )


def save_moments(optimizer: torch.optim.Optimizer, model: nn.Module, path: str | Path) -> None:
    """Write the moments of an Adam or AdamW by parameter name, as `optimizer.safetensors` of a checkpoint.

    Args:
        optimizer: the optimizer of all of `model`'s parameters, not sharded.
        model: the model, which names the parameters.
        path: the file, which is written completely or not at all.

    Raises:
        ModelError: when a parameter is not of the model, or has no moments.
    """
    names = {id(p): canonical(name) for name, p in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {}
    description: dict[str, Any] = {"parameters": {}}
    for group in optimizer.param_groups:
        description.setdefault("learning_rate", float(group["lr"]))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if id(parameter) not in names:
                raise ModelError(f"expected parameters of the model, got another one, of shape {list(parameter.shape)}")
            name = names[id(parameter)]
            if not {"exp_avg", "exp_avg_sq"} <= set(state):
                raise OptimizerStateError(
                    f"{name}: expected Adam's exp_avg and exp_avg_sq, got {sorted(state) or 'no state'}"
                )
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"{name}.{key}"] = state[key].detach().cpu().contiguous()
            constants = {"step": int(state["step"]), "betas": list(group["betas"]), "eps": group["eps"]}
            description["parameters"][name] = constants
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, {"adam": json.dumps(description)})


def _read_safetensors(file: Path, values: bool = True) -> tuple[list[Moments], list[str], float]:
    """Read moments by name; without `values`, empty ones of their shapes."""
    try:
        with safe_open(file, "pt") as opened:

            def moment(name: str) -> torch.Tensor:
                if values:
                    return opened.get_tensor(name).float()
                return torch.empty(opened.get_slice(name).get_shape(), device="meta")

            description = json.loads((opened.metadata() or {})["adam"])
            names = list(description["parameters"])
            state = [
                Moments(
                    moment(f"{name}.exp_avg"),
                    moment(f"{name}.exp_avg_sq"),
                    int(constants["step"]),
                    (float(constants["betas"][0]), float(constants["betas"][1])),
                    float(constants["eps"]),
                )
                for name, constants in description["parameters"].items()
            ]
            return state, [canonical(name) for name in names], float(description["learning_rate"])
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise OptimizerStateError(f"{file}: cannot be read as moments by name (see save_moments): {error!r}") from None


def _open_torch(file: Path) -> tuple[list[dict[str, Any]], dict[Any, dict[str, Any]], list[list[Any]]]:
    """Open the state_dict of an optimizer that torch saved: its groups, its states, and the names or numbers of each
    group's parameters. Only tensors and plain values are unpickled."""
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        groups, states = stored["param_groups"], stored["state"]
        ids = [list(group["params"]) for group in groups]
    except Exception as error:  # torch does not say which errors a damaged file raises
        text = str(error).partition("\n")[0]
        raise OptimizerStateError(f"{file}: cannot be read as the state of a torch optimizer: {text}") from None
    return groups, states, ids


def _of_torch(
    file: Path,
    module: nn.Module,
    groups: list[dict[str, Any]],
    states: dict[Any, dict[str, Any]],
    ids: list[list[Any]],
    values: bool = True,
) -> tuple[list[Moments], list[str], float]:
    """Name the moments of a state_dict; without `values`, they stay as they are stored."""
    names = parameter_names(file, groups, ids, states, module)
    state = []
    for group, numbers, group_names in zip(groups, ids, names, strict=True):
        for number, name in zip(numbers, group_names, strict=True):
            stored = states.get(number, {})
            if not {"exp_avg", "exp_avg_sq"} <= set(stored):
                raise OptimizerStateError(
                    f"{file}: {name}: expected Adam's exp_avg and exp_avg_sq, got {sorted(stored) or 'no state'}"
                )
            step, betas, eps = int(stored.get("step", 1)), group.get("betas", (0.9, 0.999)), group.get("eps", 1e-8)
            m, v = stored["exp_avg"], stored["exp_avg_sq"]
            state.append(Moments(*((m.float(), v.float()) if values else (m, v)), step, tuple(betas), float(eps)))
    return state, [name for group_names in names for name in group_names], float(groups[0].get("lr", 0.0))
