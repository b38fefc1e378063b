"""A few tokens through a model at load time: how it calls its linear layers, and what it does after its blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from gdig.errors import ModelError
from gdig.model.expert_lists import ListedExpert, listed_experts, traced
from gdig.model.experts import Experts, as_experts
from gdig.model.routing import Routing, route

_TOKENS = 10
"""Tokens of a line of the trial: twice as many are no layer's width."""
_LEAK = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""How much of the largest hidden state the earlier tokens may change by, when a later token is another one.

In a causal model they do not change but by the rounding of products; without a mask they change by a good part of it.
"""
_EQUAL_LINES = 8
"""Lines of equal tokens, which a router sends to the same experts: 80, where a capacity has room for a share of them,
or for 64 (Switch Transformer's)."""
_NOT_LINEAR = 0.02
"""Largest difference between y and W x + b of a class with its own forward, as a share of the largest y."""


@dataclass
class Use:
    """How the trial called a linear layer, or a module of fused experts.

    Attributes:
        whole: calls with every token of the batch, in the batch's order. partial: calls with other tokens.
        linear: whether the output is W x (+ b); of experts, whether it is what `gdig.model.experts` computes.
        input_id: number of the input tensor. device: where the output is.
        slots: experts of a token.
    """

    whole: int = 0
    partial: int = 0
    linear: bool = True
    input_id: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    slots: int = 0

    @property
    def why_not(self) -> str | None:
        """The reason why gradients of an example cannot be taken here; None where they can."""
        if not self.linear:
            return "computes more than W x" if not self.slots else "computes more than two products a token"
        if self.whole > 1:
            return "is used twice in a pass"
        if self.whole == 0:
            return "sees some tokens only" if self.partial else "is not used for text"
        return None


@dataclass
class ListUse:
    """How the trial called a list of experts.

    Attributes:
        count: E, experts of the list.
        slots: how many of them see a token, rounded up.
        traced: whether each call was one of an expert, with rows whose tokens are known.
    """

    count: int = 0
    slots: int = 0
    traced: bool = False


@dataclass
class Trial:
    """What a forward pass of a few tokens showed.

    Attributes:
        plain_head: whether the logits are the head's product with the last hidden states, and nothing more.
        order: the modules that were called, by their first call.
        uses: of the linear layers and the modules of fused experts that were called.
        lists: of the lists of experts, by their names.
    """

    plain_head: bool = True
    order: dict[nn.Module, int] = field(default_factory=dict)
    uses: dict[nn.Module, Use] = field(default_factory=dict)
    lists: dict[str, ListUse] = field(default_factory=dict)

    def use(self, module: nn.Module) -> Use:
        """How the trial called a linear layer."""
        return self.uses.get(module, Use())

    def called(self, module: nn.Module) -> bool:
        """Whether the trial called a module, or one inside it."""
        return any(inner in self.order for inner in module.modules())


@torch.no_grad()
def try_model(module: Any, base: Any, head: Any) -> Trial:
    """Pass a few tokens through `base` and through the whole model.

    Raises:
        ModelError: when a later token changes the hidden states of earlier ones, or a line those of another. Also when
            the model does not take the input of a causal language model.
    """
    trial = Trial()
    ids = _trial_ids(module)
    try:
        hidden = base(input_ids=ids, use_cache=False).last_hidden_state
    except (TypeError, ValueError) as error:  # OpenAI GPT of transformers 4 takes no use_cache
        raise ModelError(
            f"{type(module).__name__}: transformers {transformers.__version__} cannot pass a few tokens through it: "
            f"{error}; another version may"
        ) from error
    leak = _leak(hidden)
    # Experts that drop tokens let the second line change the first one, which looks like a leak from later tokens.
    if leak or any("expert" in name for name, _ in module.named_modules()):
        equal = ids[:1, :1].expand(_EQUAL_LINES, ids.shape[1]).contiguous()
        _require_own_rows(module, base(input_ids=equal, use_cache=False).last_hidden_state)
    if leak:
        raise ModelError(
            f"{type(module).__name__}: a later token changes the hidden states of earlier tokens; expected a causal "
            "language model (for a model of BERT's kind, set is_decoder to true in its config.json)"
        )
    with _watched(module, trial, (ids.shape[0], ids.shape[1])), _watched_lists(module, trial, ids.numel()):
        logits = module(input_ids=ids, use_cache=False).logits
    product = head(hidden).to(logits.device)
    trial.plain_head = logits.shape == product.shape and torch.allclose(
        logits.float(), product.float(), rtol=1e-3, atol=1e-3
    )
    return trial


def sees_all(x: torch.Tensor, shape: tuple[int, int]) -> bool:
    """Whether a layer's input x holds each token of a batch [B, L] once, in the batch's order."""
    return tuple(x.shape[:-1]) in (tuple(shape), (shape[0] * shape[1],))


@contextmanager
def _watched(whole: nn.Module, trial: Trial, shape: tuple[int, int]) -> Iterator[None]:
    """In the block, note every call of a module in `whole` with a batch [B, L]."""
    inputs: list[object] = []  # keeps the tensors alive, so that no two have one id

    def note(module: nn.Module, args: tuple, named: dict[str, Any], output: Any) -> None:
        trial.order.setdefault(module, len(trial.order))
        if (experts := as_experts("", module)) is not None:
            _note_experts(experts, args, named, output, trial.uses.setdefault(module, Use()), shape)
        if isinstance(module, (nn.Linear, Conv1D)):
            use = trial.uses.setdefault(module, Use())
            if not args or not isinstance(output, torch.Tensor) or not _is_linear(module, args[0], output):
                use.linear = False
            elif sees_all(args[0], shape):
                inputs.append(args[0])
                use.whole += 1
                use.input_id, use.device = id(args[0]), output.device  # the input may be on another device
            else:
                use.partial += 1

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in whole.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _watched_lists(whole: nn.Module, trial: Trial, tokens: int) -> Iterator[None]:
    """In the block, note the calls of experts in lists."""
    experts = listed_experts(whole)
    rows: dict[str, int] = {}
    calls: dict[nn.Module, int] = {}
    unknown: set[str] = set()

    def note(expert: ListedExpert, places: torch.Tensor | None) -> None:
        name = expert.place.list
        calls[expert.module] = calls.get(expert.module, 0) + 1
        if places is None or calls[expert.module] > 1:
            unknown.add(name)
        else:
            rows[name] = rows.get(name, 0) + len(places)

    with traced(experts, tokens, note):
        yield
    for name, count in Counter(expert.place.list for expert in experts).items():
        trial.lists[name] = ListUse(count, -(-rows.get(name, 0) // tokens), name in rows and name not in unknown)


def _note_experts(
    experts: Experts, args: tuple, named: dict[str, Any], output: Any, use: Use, shape: tuple[int, int]
) -> None:
    """Note a call of fused experts with a batch [B, L], and whether gdig computes the same."""
    lines, length = shape
    slots: list[int] = []

    def by(of_slots: torch.Tensor, tokens: torch.Tensor, seen: int) -> Routing:
        if seen != lines * length:
            raise ModelError(f"sees {seen} tokens")
        routing = route(of_slots, tokens, experts.count, lines, length)
        slots.append(-(-len(routing.rows) // seen))
        return routing

    try:
        expected = experts.forward(args, named, by, lambda matrix, a, y, routing: y)
    except ModelError:
        use.partial += 1
        return
    except (TypeError, ValueError, RuntimeError, AttributeError):  # a class of the same names that does something else
        use.linear = False
        return
    if not isinstance(output, torch.Tensor):
        use.linear = False
        return
    use.whole, use.slots, use.device = use.whole + 1, slots[0], output.device
    same_shape = output.shape == expected.shape
    largest = _NOT_LINEAR * output.float().abs().max()
    use.linear &= same_shape and bool((output.float() - expected.float()).abs().max() <= largest)


def _is_linear(module: Any, x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether y is W x (+ b). Quantized weights are believed."""
    forward: Callable = type(module).forward
    if forward in (nn.Linear.forward, Conv1D.forward):
        return True
    if x.shape[-1] != module.in_features or y.shape != (*x.shape[:-1], module.out_features):
        return False
    if not module.weight.is_floating_point() or module.weight.shape != (module.out_features, module.in_features):
        return True
    expected = nn.functional.linear(x.to(module.weight.dtype), module.weight, module.bias).float()
    return bool((y.float() - expected).abs().max() <= _NOT_LINEAR * expected.abs().max())


def _leak(hidden: torch.Tensor) -> bool:
    """Whether the hidden states [2, L, H] of two lines that differ in the last token alone differ before it."""
    before = hidden[:, :-1].float()
    change = float((before[0] - before[1]).abs().max())
    return change > _LEAK.get(hidden.dtype, 0.05) * float(before.abs().max())


def _require_own_rows(module: nn.Module, hidden: torch.Tensor) -> None:
    """Compare the hidden states [B, L, H] of equal lines. Experts that drop tokens serve the first lines alone."""
    states = hidden.float()
    change = float((states - states[:1]).abs().max())
    if change > _LEAK.get(hidden.dtype, 0.05) * float(states.abs().max()):
        raise ModelError(
            f"{type(module).__name__}: the hidden states of a line depend on the other lines of its batch, as those of "
            "experts do that drop tokens beyond a capacity; expected a model whose rows do not depend on their "
            "neighbours; switch the capacity off in its config.json, or take another model"
        )


def _trial_ids(module: Any) -> torch.Tensor:
    """Two lines that differ in their last token: int64 [2, 10].

    The tokens are from the middle of the vocabulary. Those with a meaning of their own (pads, images) are at its ends.
    """
    weight = module.get_input_embeddings().weight
    words = weight.shape[0]
    line = torch.arange(_TOKENS, device=weight.device) + words // 2
    other = line.clone()
    other[-1] += 1
    return torch.stack([line, other]) % words
