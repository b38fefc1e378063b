"""A batch has no mask: transformers neither looks for one on the device, nor makes one while a pass is compiled."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from gdig.model.batch_runner import trial_batch
from gdig.model.capture import GradientPass
from gdig.model.masks import one_sequence_a_line
from tests.support.tiny_models import gpt2, llama, wrapped

KINDS = pytest.mark.parametrize("kind", [llama, gpt2], ids=["llama", "gpt2"])


class Reads(TorchDispatchMode):
    """Counts what makes Python wait for a number of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@KINDS
def test_no_number_of_a_tensor_is_read_in_a_pass(kind):
    model, _ = wrapped(kind())
    ids = torch.ones(3, 12, dtype=torch.int64)
    with Reads() as plain:
        model.base(input_ids=ids, use_cache=False)
    if int(transformers.__version__.split(".")[0]) >= 5:  # transformers 4 looks at no positions
        assert plain.count > 0
    with Reads() as seen:
        ids.max().item()
    assert seen.count > 0  # so the mode sees them
    with Reads() as reads:
        model.hidden(ids)
    assert reads.count == 0


@pytest.mark.slow
@KINDS
def test_a_compiled_pass_uses_the_flag_of_torchs_attention(kind, monkeypatch):
    graphs, compiler = [], torch.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(
        torch, "compile", lambda function, mode=None, **rest: compiler(function, backend=backend, **rest)
    )
    model, _ = wrapped(kind(blocks=2), torch_compile=True)
    GradientPass(model).run(trial_batch(36, 12), lambda *_: None)
    torch.compiler.reset()
    attention = torch.nn.functional.scaled_dot_product_attention
    nodes = [node for graph in graphs for node in graph.graph.nodes if node.target is attention]
    assert len(nodes) >= 2
    assert all(node.kwargs["attn_mask"] is None and node.kwargs["is_causal"] is True for node in nodes)


def test_after_the_block_transformers_is_as_before():
    names = [name for name in ("find_packed_sequence_indices", "is_tracing") if hasattr(masking_utils, name)]
    before = [getattr(masking_utils, name) for name in names]
    with pytest.raises(KeyError), one_sequence_a_line(compiling=True):
        assert [getattr(masking_utils, name) for name in names] != before
        raise KeyError
    assert [getattr(masking_utils, name) for name in names] == before
