"""What keeps a pass within the device's memory: the batch size found by trial, checkpointing, weights in few bits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from gdig.config.config import Config
from gdig.errors import ConfigError, ModelError
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model import batch_size, gradient_checkpointing, load
from gdig.model.batch_runner import BatchRunner
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.freed_memory import FreedMemory
from gdig.model.token_memory import TokenMemory
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support.graph_memory import kept_bytes
from tests.support.project_fixtures import save_model
from tests.support.tiny_models import VOCAB, gpt2, llama, make_examples, wrapped

SEEDS, POOL = make_examples(3, 2), make_examples(12, 3)
QUIET = Progress(quiet=True)
OPTIONS = {"inversion": "identity", "projection_dim": 24, "projection_side": 4}


def test_freed_memory_is_handed_back_in_a_fiftieth_of_the_time():
    now, calls = [0.0], []

    def trim():
        calls.append(now[0])
        now[0] += 0.02

    freed = FreedMemory(lambda: now[0], trim)
    for _ in range(30):
        freed.hand_back()
        now[0] += 0.1
    assert calls[0] == 0.0 and len(calls) >= 3
    assert all(after - before >= 0.02 * 51 - 1e-9 for before, after in itertools.pairwise(calls))


def test_a_runner_hands_memory_back_between_batches(monkeypatch):
    events = []
    monkeypatch.setattr(FreedMemory, "hand_back", lambda self: events.append("back"))
    batches = make_batches(make_examples(4, 1, 9, 9), 9)
    for device, expected in (("cpu", ["back", "run"] * 4), ("meta", ["run"] * 4)):
        events.clear()
        runner = BatchRunner(512, torch.device(device), Progress(quiet=True))
        assert len(list(runner.run(batches, lambda *_: events.append("run")))) == 4
        assert events == expected


def swept(model, config):
    joined, _ = precondition_seeds(model, [None] * len(model.layers), SEEDS, [], config, QUIET)
    return make_influence_pass(model, joined, config, QUIET).compute(POOL)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("size", [2**24, 2**30, 2**34, 2**40])
def test_the_largest_batch_fits_and_fills(size):
    memory = TokenMemory(graph=(900_000, 100_000), work=100_000, head=2**20, head_by_token=0)
    batch = batch_size.largest_batch(memory, size, CUDA)
    assert batch % 256 == 0 and 256 <= batch <= batch_size.DEVICE_TOKENS
    assert batch == 256 or memory.of_batch(batch) <= size
    assert batch == batch_size.DEVICE_TOKENS or memory.of_batch(batch + 256) > size
    # A pass over the upper layer alone keeps less.
    upper = batch_size.largest_batch(memory, size, CUDA, lowest_layer=1)
    assert batch == 256 or upper >= min(batch * 4, batch_size.DEVICE_TOKENS)
    assert batch_size.largest_batch(memory, size, CPU) == min(batch, batch_size.CPU_TOKENS)
    assert batch_size.largest_batch(memory, None, CPU) == batch_size.CPU_TOKENS


def test_a_trial_that_takes_more_than_planned_makes_the_batch_smaller():
    memory, limit = TokenMemory(graph=(10_000,), work=0, head=2**20, head_by_token=0), 2**30
    planned = batch_size.largest_batch(memory, limit, CUDA)
    scaled = lambda taken: batch_size.scaled_batch(planned, memory, limit, 2048, taken)  # noqa: E731
    assert scaled(memory.of_batch(2048)) == scaled(1) == planned
    twice = scaled(2**20 + 2048 * 20_000)
    assert 2**20 + twice * 20_000 <= limit < 2**20 + (twice + 256) * 20_000
    assert scaled(10 * limit) == 256


def test_what_the_graph_keeps_is_counted_to_the_byte():
    """Autograd's hooks see every tensor that a graph keeps. Without numbers, torch takes the attention that keeps its
    weights: one number a head and pair of tokens more, in the one block whose attention is above the lowest layer."""
    model, _ = wrapped(llama(), torch.float32)
    memory = TokenMemory.count(model)
    length = model.window
    (batch,) = make_batches(make_examples(1, 1, length, length), 4096)
    assert batch.input_ids.shape == (1, length)
    assert memory.graph[0] == -(-kept_bytes(model, batch) // length)
    assert list(memory.graph) == sorted(memory.graph, reverse=True) and memory.graph[-1] < memory.graph[0] / 2
    if torch.__version__.startswith("2.6."):  # on the CPU it keeps the weights too, where heads share keys
        model, _ = wrapped(llama(num_key_value_heads=2), torch.float32)
        memory = TokenMemory.count(model)
    on_meta = replace(model, module=model.module.to("meta"), device=torch.device("meta"))
    weights = model.module.config.num_attention_heads * length * 4
    for without, real in zip(TokenMemory.count(on_meta).graph, memory.graph, strict=True):
        assert 0 <= without - real <= weights


def test_a_number_stays_and_auto_on_the_cpu_needs_no_trial(monkeypatch):
    model, _ = wrapped(llama(), torch.float32)
    assert batch_size.resolve_token_batch_size(77, model, pytest.fail, 60) == 77
    assert batch_size.resolve_token_batch_size("auto", model, pytest.fail, 60) == batch_size.CPU_TOKENS
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 2**22)
    assert batch_size.resolve_token_batch_size("auto", model, pytest.fail, 60) < batch_size.CPU_TOKENS
    with pytest.raises(ConfigError, match="token_batch_size='much': expected a whole number or auto"):
        Config.build({"token_batch_size": "much"})
    with pytest.raises(ConfigError, match="token_batch_size=0: expected a whole number of at least 1"):
        Config.build({"token_batch_size": 0})


@pytest.mark.parametrize("kind", [llama, gpt2], ids=["llama", "gpt2"])
def test_checkpointing_changes_nothing_and_keeps_less(kind):
    results = {}
    for on in (False, True):
        model, config = wrapped(kind(), gradient_checkpointing=on, **OPTIONS)
        results[on] = swept(model, config), _kept_bytes(model)
    for a, b in zip(results[False][0], results[True][0], strict=True):
        assert np.all(np.abs(a - b) <= 2.0**-23 * np.abs(a) + 1e-12 * np.abs(a).max())
    assert results[True][1] < 0.5 * results[False][1]


def _kept_bytes(model) -> int:
    """What the graph keeps from forward to backward. Blocks that are checkpointed keep what is theirs by hooks of their
    own, which hide it from these."""
    (batch,) = make_batches(make_examples(8, 1, 20, 20), 4096)
    total = 0

    def pack(x):
        nonlocal total
        total += x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        GradientPass(model).run(batch, lambda *_: None)
    return total


def test_one_example_that_does_not_fit_turns_checkpointing_on(monkeypatch, capsys):
    model, config = wrapped(llama(), **OPTIONS)
    want = swept(model, config)
    run = GradientPass.run

    def limited(self, batch, sink, states_sink, **sinks):
        if not model.module.model.layers[0].gradient_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, batch, sink, states_sink, **sinks)

    joined, _ = precondition_seeds(model, [None] * len(model.layers), SEEDS, [], config, QUIET)
    monkeypatch.setattr(GradientPass, "run", limited)
    got = make_influence_pass(model, joined, config, Progress()).compute(POOL)
    assert capsys.readouterr().err.count("gradient_checkpointing is on now") == 1
    for a, b in zip(want, got, strict=True):
        assert np.all(np.abs(a - b) <= 2.0**-23 * np.abs(a) + 1e-12 * np.abs(a).max())


def test_a_model_without_blocks_to_checkpoint_says_so(monkeypatch):
    monkeypatch.setattr(gradient_checkpointing, "GradientCheckpointingLayer", torch.nn.Bilinear)
    with pytest.raises(ModelError, match="gradient_checkpointing: LlamaForCausalLM does not offer it"):
        wrapped(llama(), gradient_checkpointing=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model large enough for bitsandbytes' blocks of 64 numbers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return save_model(tmp_path_factory.mktemp("model"), LlamaForCausalLM(config))


def rounded_twin(path, model):
    """The same directory loaded plainly, with the weights that bitsandbytes' rounding stands for."""
    import bitsandbytes as bnb

    plain = load.load_model(Config.build({"model": str(path), "device": "cpu", **OPTIONS}))
    modules, quantized = dict(plain.module.named_modules()), 0
    for name, module in model.module.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB  # moved at the first use
            weight = module.weight.data.float() * scale[:, None] / 127
        else:
            continue
        quantized += 1
        modules[name].weight.data.copy_(weight.view_as(modules[name].weight))
    assert quantized >= 14
    return plain


@pytest.mark.parametrize(("bits", "bound"), [("8bit", 0.1), ("4bit", 1e-5)])
def test_weights_in_few_bits_are_the_model_with_rounded_weights(directory, bits, bound):
    """What is left is how bitsandbytes computes on the CPU: in 8 bits activations are rounded too (2^-8 of the largest
    in a row, some ten products deep); with 4 bits weights are widened, and only the order of sums may differ."""
    pytest.importorskip("bitsandbytes")
    config = Config.build({"model": str(directory), "device": "cpu", "quantization": bits, **OPTIONS})
    model = load.load_model(config)
    assert len(model.layers) == 6 and model.layers[1].input_name == model.layers[0].name
    assert model.layers[0].module.weight.element_size() == 1
    for a, b in zip(swept(rounded_twin(directory, model), config), swept(model, config), strict=True):
        assert np.linalg.norm(a - b) <= bound * np.linalg.norm(a)


def test_an_adapter_on_four_bits(directory, tmp_path):
    """QLoRA: the base in 4 bits, the LoRA matrices in float32 are the layers."""
    pytest.importorskip("bitsandbytes")
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    adapter = peft.LoraConfig(r=4, target_modules=["up_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(directory), adapter).save_pretrained(tmp_path)
    config = Config.build({"model": str(tmp_path), "device": "cpu", "quantization": "4bit", **OPTIONS})
    model = load.load_model(config)
    assert len(model.layers) == 8 and model.layers[0].module.weight.dtype == torch.float32
    for a, b in zip(swept(rounded_twin(tmp_path, model), config), swept(model, config), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)


def test_an_extra_that_is_missing_is_named(directory, monkeypatch):
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    for option, value, extra in (("quantization", "4bit", "quantization"), ("device_map", "auto", "large")):
        with pytest.raises(ModelError, match=rf"{option}: needs the package .* \(pip install 'gdig\[{extra}\]'\)"):
            load.load_model(Config.build({"model": str(directory), "device": "cpu", option: value}))


ON_DISK = dict.fromkeys(("model.embed_tokens", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
ON_DISK["model.layers.0"] = "disk"


@pytest.mark.parametrize("spread", ["auto", ON_DISK], ids=["auto", "disk"])
def test_a_model_that_accelerate_has_spread_gives_the_same(directory, tmp_path, spread, monkeypatch):
    """With part of the weights on disk, where they are between uses, as another GPU's would be."""
    pytest.importorskip("accelerate")
    config = Config.build({"model": str(directory), "device": "cpu", "device_map": "auto", **OPTIONS})
    want = swept(load.load_model(config.with_options(device_map="none")), config)
    real = load.AutoModelForCausalLM.from_pretrained

    def with_map(path, **options):
        assert options["device_map"] == "auto"
        return real(path, **{**options, "device_map": spread, "offload_folder": str(tmp_path)})

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", with_map)
    model = load.load_model(config)
    assert spread == "auto" or model.module.hf_device_map == spread
    for a, b in zip(want, swept(model, config), strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())


def test_medium_products_stay_close_and_leave_no_trace():
    """bfloat16 products: up to 2^-8 of a factor each, and a few layers of them; 3 % of the largest is well above that.
    The setting is torch's own again afterwards."""
    model, config = wrapped(llama(), torch.float32, **OPTIONS)
    before = torch.get_float32_matmul_precision()
    want, got = swept(model, config), swept(model, config.with_options(matmul_precision="medium"))
    assert torch.get_float32_matmul_precision() == before
    for a, b in zip(want, got, strict=True):
        assert np.abs(a - b).max() <= 0.03 * np.abs(a).max()
