"""How many of a model's weights the chosen layers have, and which modules have the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from gdig.model.choice import all_layers, block_order, unused_modules
from gdig.model.layer_names import block_of, is_adapter_weight, module_in_block
from gdig.model.layers import Layer, as_layer
from gdig.model.load_trial import Trial

_LEAST_SHARE = 0.5
_SHOWN = 3


@dataclass(frozen=True)
class Coverage:
    """The weights of a model's text part that the chosen layers have. Embeddings and head do not count.

    Attributes:
        share: of all these weights; of an adapter, of its own.
        share_of_blocks: of the weights of the blocks from the lowest chosen layer on.
        left_out: the modules of these blocks with the most other weights, and their shares.
    """

    share: float
    share_of_blocks: float
    left_out: tuple[tuple[str, float], ...]

    @property
    def warning(self) -> str | None:
        """What to say when the layers have less than half of the weights of their blocks."""
        if self.share_of_blocks >= _LEAST_SHARE:
            return None
        shown = ", ".join(f"{name} ({share:.0%})" for name, share in self.left_out[:_SHOWN])
        return (
            f"the layers cover {self.share_of_blocks:.0%} of the weights of their blocks; left out: {shown}. The "
            "scores say nothing of these weights; layers=all adds the layers among them that gdig takes gradients of"
        )


def measure_coverage(
    model: nn.Module, layers: Sequence[Layer], trial: Trial, head: nn.Module | None, adapter: bool
) -> Coverage:
    """Count the weights of the chosen layers, and of the modules beside them."""
    skipped = set(head.modules()) if head is not None else set()
    for unused in unused_modules(model, trial):
        skipped.update(unused.modules())
    order = block_order(all_layers(model, trial), trial)
    lowest = min((order.index(block) for layer in layers if (block := block_of(layer.name)) in order), default=0)
    lower = set(order[:lowest])
    chosen = Counter[nn.Module]()
    for layer in layers:
        chosen[layer.module] += layer.weights
    total = covered = 0
    in_blocks, left_out = 0, Counter[str]()
    counted: set[int] = set()
    for name, module in model.named_modules():
        if module in skipped or isinstance(module, nn.Embedding):
            continue
        size = _weights(name, module, adapter, counted)
        total += size
        inside = min(size, chosen[module])
        covered += inside
        block = block_of(f"{name}.")
        if block not in lower and (block is not None or lowest == 0):
            in_blocks += size
            if size > inside:
                left_out[module_in_block(name)] += size - inside
    shares = tuple((name, size / in_blocks) for name, size in left_out.most_common())
    return Coverage(covered / max(total, 1), covered / max(in_blocks, 1), shares)


def _weights(name: str, module: nn.Module, adapter: bool, counted: set[int]) -> int:
    """The weights of a module itself, without those of the modules in it, and without those in `counted`."""
    own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
    counted.update(id(p) for p in own)
    if not own or (adapter and not is_adapter_weight(name)):
        return 0
    layer = as_layer(name, module)  # quantized weights lie in fewer numbers
    return layer.weights if layer is not None else sum(p.numel() for p in own)
