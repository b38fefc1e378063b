"""The pass compiled by torch gives the losses, inputs and gradients of the plain one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gdig.config.config import Config
from gdig.errors import ConfigError, ModelError
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support import profiles
from tests.support.tiny_models import gpt2, llama, make_examples, wrapped

pytestmark = pytest.mark.slow

POOL = make_examples(13, 3)
OPTIONS = {"inversion": "identity", "projection_dim": 24, "projection_side": 4}


@pytest.fixture(autouse=True)
def fresh_compiler():
    """torch keeps code by function: of another test's model too, of which it makes at most eight."""
    torch.compiler.reset()


@pytest.fixture
def calls(monkeypatch, request) -> list[dict]:
    """Options of each call of torch.compile. Parameter: the backend. inductor makes C++ of the graphs and compiles it,
    which takes a minute of a core; aot_eager captures the same graphs and runs them as they are."""
    compilations, compiler = [], torch.compile
    backend = getattr(request, "param", "aot_eager")

    def compile_pass(function, mode=None, **options):
        compilations.append(options)
        return compiler(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compile_pass)
    return compilations


def shortened(module, blocks: int):
    """The model with its first blocks alone."""
    inner, name = (module.model, "layers") if hasattr(module, "model") else (module.transformer, "h")
    setattr(inner, name, getattr(inner, name)[:blocks])
    return module


def swept(module, **options):
    model, config = wrapped(module, **OPTIONS, **options)
    quiet = Progress(quiet=True)
    joined, _ = precondition_seeds(model, [None] * len(model.layers), make_examples(3, 2), [], config, quiet)
    return make_influence_pass(model, joined, config, quiet).compute(POOL)


# Of the largest number. GPT-2's pass is float64 throughout. Llama computes the angles of its positions, up to 20, in
# float32 whatever the dtype: 20 x 2^-24 from one order of operations to the other.
@pytest.mark.parametrize(
    ("kind", "blocks", "calls", "error"),
    [
        pytest.param(llama, 1, "inductor", 20 * 2.0**-24, id="llama"),
        pytest.param(gpt2, 1, "aot_eager", 1e-12, id="gpt2 as captured"),
        pytest.param(gpt2, 2, "inductor", 1e-12, id="gpt2", marks=profiles.thorough("C++ of a second model")),
        pytest.param(llama, 2, "inductor", 20 * 2.0**-24, id="llama of two", marks=profiles.thorough("more C++")),
    ],
    indirect=["calls"],
)
def test_compiled_scores_sketches_and_losses_are_those_of_the_plain_pass(kind, blocks, calls, error):
    plain = swept(shortened(kind(), blocks))
    # Rectangles of many shapes, one of a single line among them; all from one compiled pass.
    compiled = swept(shortened(kind(), blocks), torch_compile=True, token_batch_size=60)
    assert len(calls) == 1 and calls[0]["fullgraph"] and calls[0]["dynamic"]
    for a, b in zip(plain, compiled, strict=True):
        # Results are stored as float32: one rounding of it on top.
        assert np.all(np.abs(a - b) <= 2.0**-23 * np.abs(a) + error * np.abs(a).max())


def test_layers_inputs_and_gradients_under_drawn_labels(calls):
    """What happens at the head, between forward and backward, is the same code in both."""
    batch = make_batches(POOL, 10**6)[0]
    seen = {}
    for on in (False, True):
        model, _ = wrapped(shortened(gpt2(), 1), torch_compile=on)
        layers = []
        passes = GradientPass(model, "sum", random_seed=3)
        loss = passes.run(
            batch, lambda i, a, d, places, layers=layers: layers.append((i, a.clone(), d.clone(), places.mask))
        )
        seen[on] = loss, {i: rest for i, *rest in layers}
    assert torch.all((seen[False][0] - seen[True][0]).abs() <= 2.0**-23 * seen[False][0])
    assert seen[False][1].keys() == seen[True][1].keys()
    for index, values in seen[False][1].items():
        for x, y in zip(values, seen[True][1][index], strict=True):
            assert (x - y).abs().max() <= 1e-12 * x.abs().max()


def test_a_layer_out_of_reach_is_told_as_without_compiling(calls):
    class WithSpare(torch.nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.mlp, self.unused = mlp, torch.nn.Linear(16, 16)

        def forward(self, x):
            self.unused(x)
            return self.mlp(x)

    module = llama()
    module.model.layers[0].mlp = WithSpare(module.model.layers[0].mlp)
    model, _ = wrapped(module, torch_compile=True, filter_modules="mlp|unused")
    with pytest.raises(ModelError, match=r"no gradient reaches model\.layers\.0\.mlp\.unused"):
        GradientPass(model).run(make_batches(POOL, 64)[0], lambda *_: None)


def test_what_cannot_be_compiled_is_said_with_the_reason():
    module = llama()
    mlp = module.model.layers[0].mlp
    inner = mlp.forward

    def forward(x):
        torch._dynamo.graph_break()
        return inner(x)

    mlp.forward = forward
    model, _ = wrapped(module, torch_compile=True)
    with pytest.raises(ModelError, match=r"torch_compile: the model cannot be compiled: .*leave the option off"):
        GradientPass(model).run(make_batches(POOL, 64)[0], lambda *_: None)


@pytest.mark.parametrize(
    "other", [{"gradient_checkpointing": True}, {"device_map": "auto"}, {"quantization": "4bit"}], ids=str
)
def test_options_that_do_not_go_together(other):
    with pytest.raises(ConfigError, match=f"torch_compile=True: expected False with {next(iter(other))}="):
        Config.build({"torch_compile": True, **other})
