"""EK-FAC's rotations in TF32, which a CPU does not have, and in bfloat16: their error, and where they are used."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gdig.influence import rotations
from gdig.influence.rotations import rotate, rotate_experts, rotation_precision, rotations_in_bfloat16
from gdig.model import precision
from gdig.ops import ExpertRows
from tests.support.tiny_models import llama, wrapped


def tf32(x: torch.Tensor) -> torch.Tensor:
    """Cut float32 to the 10 explicit bits of TF32, as tensor cores may: they lose up to twice as much as rounding."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


class Precisions(TorchDispatchMode):
    """Notes the precision of float32 products at each product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.mm.default:
            self.seen.append(torch.get_float32_matmul_precision())
        return function(*args, **(kwargs or {}))


def test_the_cut_is_that_of_tf32():
    x = torch.tensor([1 + 2.0**-10, 1 + 2.0**-11, 1 + 3 * 2.0**-11, -(1 + 2.0**-12), 3.0])
    assert tf32(x).tolist() == [1 + 2.0**-10, 1.0, 1 + 2.0**-10, -1.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_eigenvalues_with_rotations_in_tf32_are_within_the_bound(dtype):
    """x and y of half precision are exact in TF32. So a rotated entry is off by at most 2^-10 of the sum of the sizes
    of its terms, and (n + 1) 2^-24 of it for a sum of n terms in float32. An entry g of an example's gradient is off by
    e, the sum over tokens of |x||q_a| |y||q_s| times both, and g^2 by 2 |g| e + e^2."""
    g = torch.Generator().manual_seed(0)
    tokens, width, outputs, examples = 24, 40, 32, 6
    q_a, q_s = (torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0] for n in (width, outputs))
    x, y = (torch.randn(examples, tokens, n, generator=g).to(dtype) for n in (width, outputs))
    exact = (y.double() @ q_s).transpose(1, 2) @ (x.double() @ q_a)
    a, s = (rotate(z.flatten(0, 1), tf32(q.float())).view(examples, tokens, -1) for z, q in ((x, q_a), (y, q_s)))
    rounded = s.double().transpose(1, 2) @ a.double()
    sizes = (y.double().abs() @ q_s.abs()).transpose(1, 2) @ (x.double().abs() @ q_a.abs())
    off_a, off_s = (2.0**-10 + (n + 1) * 2.0**-24 for n in (width, outputs))
    off = ((1 + off_a) * (1 + off_s) - 1) * sizes
    assert torch.all((rounded - exact).abs() <= off)
    want, got = exact.square().mean(0), rounded.square().mean(0)
    assert torch.all((got - want).abs() <= (2 * exact.abs() * off + off.square()).mean(0))
    # The bound is wide, since signs cancel. In the mean the eigenvalues are off by 0.14 %.
    assert 2e-4 < ((got - want).abs() / want).mean() < 2e-3


def test_a_rotation_is_the_product_with_q_in_the_dtype_of_q():
    g = torch.Generator().manual_seed(0)
    x, q = torch.randn(30, 20, generator=g).bfloat16(), torch.randn(20, 20, generator=g)
    got, want = rotate(x, q), x.double() @ q.double()
    assert got.dtype == torch.float32
    assert torch.all((got - want).abs() <= 21 * 2.0**-24 * (x.double().abs() @ q.double().abs()))


def test_half_precision_on_cuda_alone_is_rotated_in_tf32():
    assert rotation_precision("cuda", torch.bfloat16, "highest") == "high"
    assert rotation_precision("cuda", torch.float16, "highest") == "high"
    assert rotation_precision("cuda", torch.bfloat16, "medium") == "medium"
    assert rotation_precision("cuda", torch.float32, "highest") == "highest"
    assert rotation_precision("cpu", torch.bfloat16, "highest") == "highest"


def test_the_precision_holds_in_the_product_and_is_as_before_after_it(monkeypatch):
    asked = []
    monkeypatch.setattr(rotations, "rotation_precision", lambda *facts: (asked.append(facts), "high")[1])
    with Precisions() as products:
        rotate(torch.ones(2, 3, dtype=torch.bfloat16), torch.eye(3))
    assert asked == [("cpu", torch.bfloat16, "highest")] and products.seen == ["high"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_squares_with_rotations_in_bfloat16_are_within_the_bound():
    """Q, x and the result are rounded, each by at most 2^-8 of a number; sums in float32 add less than one of them."""
    g = torch.Generator().manual_seed(0)
    n, tokens = 384, 64
    q = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0].float()
    x = torch.randn(tokens, n, generator=g) * torch.linspace(0.01, 2, n)
    exact, sizes = x.double() @ q.double(), x.double().abs() @ q.double().abs()
    got = rotate(x, q, bfloat16=True)
    assert got.dtype == torch.float32
    off = 3 * 2.0**-8 * sizes + 2.0**-8 * exact.abs()
    assert torch.all((got - exact).abs() <= off)
    added = (got.double().square() - exact.square()).mean(0)
    assert 0 < added.abs().mean() <= 2.0**-9 * exact.square().mean()
    narrow = q[:383, :383].contiguous()
    assert torch.equal(rotate(x[:, :383], narrow, bfloat16=True), x[:, :383] @ narrow)
    assert torch.equal(rotate(x.double(), q.double(), bfloat16=True), x.double() @ q.double())


def test_rounding_adds_a_share_of_the_mean_square_to_small_squares():
    """Of squares far below the mean, such as those of small eigenvalues, nothing else is left to see."""
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(384, 384, generator=g, dtype=torch.float64))[0]
    entries = torch.randn(512, 384, generator=g).double() * torch.logspace(0, -4, 384)
    x, q = (entries @ q.T).float(), q.float()
    exact, got = (x.double() @ q.double()).square(), rotate(x, q, bfloat16=True).double().square()
    small = exact.mean(0) < 1e-6 * exact.mean()
    share = float(((got - exact).mean(0)[small] / exact.mean()).mean())
    assert int(small.sum()) > 20 and 2.0**-18 < share < 2.0**-17


def test_experts_are_rotated_as_layers_are():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(9, 384, generator=g)
    bases = [torch.linalg.qr(torch.randn(384, 384, generator=g))[0] for _ in range(2)]
    rows = ExpertRows(torch.tensor([[0, 4], [4, 4], [4, 9]]))
    got = rotate_experts(x, [bases[0], None, bases[1]], rows, bfloat16=True)
    assert torch.equal(got[:4], rotate(x[:4], bases[0], True)) and torch.equal(got[4:], rotate(x[4:], bases[1], True))


def test_weak_damping_and_highest_keep_exact_rotations(monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    cpu = torch.device("cpu")

    def of(device=cpu, **options):
        return rotations_in_bfloat16(wrapped(llama(), **options)[1], device)

    assert of()
    assert not of(device=torch.device("cuda"))
    assert not of(damping_factor=0.009)
    assert not of(damping_mode="absolute", damping_factor=1.0)
    assert not of(matmul_precision="highest") and not of(matmul_precision="medium")
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)
    assert not of()
