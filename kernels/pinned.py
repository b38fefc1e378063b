"""The pinned configurations: (operation, kind, generation) -> constants; benches/tune.py writes this file."""

# ruff: noqa: E501
# fmt: off
PINNED: dict[tuple[str, str, int], dict[str, int]] = {
    ("covariance", "float", 8): {"M": 64, "N": 64, "K": 32, "num_warps": 4, "num_stages": 5, "programs": 216},
    ("covariance", "float", 9): {"M": 64, "N": 64, "K": 32, "num_warps": 4, "num_stages": 5, "programs": 264},
    ("covariance", "float", 10): {"M": 64, "N": 64, "K": 32, "num_warps": 4, "num_stages": 5, "programs": 296},
    ("covariance", "half", 8): {"M": 128, "N": 128, "K": 32, "num_warps": 8, "num_stages": 7, "programs": 108},
    ("covariance", "half", 9): {"M": 128, "N": 128, "K": 64, "num_warps": 8, "num_stages": 5, "programs": 132},
    ("covariance", "half", 10): {"M": 128, "N": 128, "K": 64, "num_warps": 8, "num_stages": 5, "programs": 148},
    ("squared_gradients", "float-long", 8): {"M": 64, "N": 64, "K": 32, "num_warps": 4, "num_stages": 3, "programs": 216},
    ("squared_gradients", "float-long", 9): {"M": 64, "N": 64, "K": 32, "num_warps": 4, "num_stages": 3, "programs": 264},
    ("squared_gradients", "float-long", 10): {"M": 64, "N": 64, "K": 32, "num_warps": 4, "num_stages": 2, "programs": 296},
    ("squared_gradients", "float-short", 8): {"M": 64, "N": 64, "K": 32, "num_warps": 4, "num_stages": 3, "programs": 216},
    ("squared_gradients", "float-short", 9): {"M": 64, "N": 64, "K": 64, "num_warps": 4, "num_stages": 3, "programs": 264},
    ("squared_gradients", "float-short", 10): {"M": 64, "N": 64, "K": 64, "num_warps": 4, "num_stages": 2, "programs": 296},
    ("squared_gradients", "half-long", 8): {"M": 64, "N": 128, "K": 32, "num_warps": 8, "num_stages": 3, "programs": 216},
    ("squared_gradients", "half-long", 9): {"M": 128, "N": 128, "K": 32, "num_warps": 8, "num_stages": 3, "programs": 132},
    ("squared_gradients", "half-long", 10): {"M": 128, "N": 128, "K": 32, "num_warps": 8, "num_stages": 3, "programs": 148},
    ("squared_gradients", "half-short", 8): {"M": 64, "N": 128, "K": 64, "num_warps": 8, "num_stages": 3, "programs": 216},
    ("squared_gradients", "half-short", 9): {"M": 128, "N": 128, "K": 64, "num_warps": 8, "num_stages": 3, "programs": 132},
    ("squared_gradients", "half-short", 10): {"M": 128, "N": 128, "K": 64, "num_warps": 8, "num_stages": 3, "programs": 148},
}
