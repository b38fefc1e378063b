"""EK-FAC's rotations in TF32, which a CPU does not have: their error by the same rounding, and where they are used."""

from __future__ import annotations

import pytest
import torch

from gdig.influence.curvature_sums import rotate, rotation_precision


def tf32(x: torch.Tensor) -> torch.Tensor:
    """Round float32 to the 10 explicit bits of TF32, to the nearest, ties to even."""
    bits = x.view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def test_the_rounding_is_that_of_tf32():
    x = torch.tensor([1 + 2.0**-10, 1 + 2.0**-11, 1 + 3 * 2.0**-11, -(1 + 2.0**-12), 3.0])
    assert tf32(x).tolist() == [1 + 2.0**-10, 1.0, 1 + 2.0**-9, -1.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_eigenvalues_with_rotations_in_tf32_are_within_the_bound(dtype):
    """x and y of half precision are exact in TF32. So a rotated entry is off by at most 2^-11 of the sum of the sizes
    of its terms, an entry g of an example's gradient by e, twice that of the sum over tokens of |x||q_a| |y||q_s|,
    and g^2 by 2 |g| e + e^2."""
    g = torch.Generator().manual_seed(0)
    tokens, width, outputs, examples = 24, 40, 32, 6
    q_a, q_s = (torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0] for n in (width, outputs))
    x, y = (torch.randn(examples, tokens, n, generator=g).to(dtype).double() for n in (width, outputs))

    def gradients(a, s):
        return (y @ s).transpose(1, 2) @ (x @ a)

    exact = gradients(q_a, q_s)
    rounded = gradients(tf32(q_a.float()).double(), tf32(q_s.float()).double())
    sizes = (y.abs() @ q_s.abs()).transpose(1, 2) @ (x.abs() @ q_a.abs())
    off = 2 * (2.0**-11 + 2.0**-24) * (1 + 2.0**-11) * sizes
    assert torch.all((rounded - exact).abs() <= off)
    want, got = exact.square().mean(0), rounded.square().mean(0)
    assert torch.all((got - want).abs() <= (2 * exact.abs() * off + off.square()).mean(0))
    # What the bound is worth: in the mean, the eigenvalues are off by less than a thousandth.
    assert ((got - want).abs() / want).mean() < 1e-3


def test_half_precision_on_cuda_alone_is_rotated_in_tf32():
    assert rotation_precision("cuda", torch.bfloat16, "highest") == "high"
    assert rotation_precision("cuda", torch.float16, "highest") == "high"
    assert rotation_precision("cuda", torch.bfloat16, "medium") == "medium"
    assert rotation_precision("cuda", torch.float32, "highest") == "highest"
    assert rotation_precision("cpu", torch.bfloat16, "highest") == "highest"


def test_a_rotation_leaves_the_precision_as_it_was():
    x, q = torch.ones(2, 3, dtype=torch.bfloat16), torch.eye(3)
    assert torch.equal(rotate(x, q), torch.ones(2, 3))
    assert torch.get_float32_matmul_precision() == "highest"
