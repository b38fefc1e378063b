"""What scikit-learn asks of an estimator, without scikit-learn."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gdig.errors import InputError, NotFittedError

PARAMETERS = (
    "n_clusters", "init", "max_iter", "tol", "random_state", "train_rows", "unit_normalize", "n_threads", "kernel",
)  # fmt: skip

_GENERATORS = (np.random.RandomState, np.random.Generator)


class Estimator:
    """The parameters of KMeans, checked when they are used; scikit-learn's tags; and whether there are centroids."""

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Literal["k-means++"] | ArrayLike = "k-means++",
        max_iter: int = 25,
        tol: float = 1e-4,
        random_state: int | np.random.RandomState | np.random.Generator | None = 0,
        train_rows: int | Literal["all"] | None = None,
        unit_normalize: bool = False,
        n_threads: int | None = None,
        kernel: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.train_rows = train_rows
        self.unit_normalize = unit_normalize
        self.n_threads = n_threads
        self.kernel = kernel

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor by name."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def set_params(self, **params: Any) -> Any:
        """Set some arguments of the constructor, and return this object.

        Raises:
            ValueError: if a name is no argument of the constructor.
        """
        for name, value in params.items():
            if name not in PARAMETERS:
                raise ValueError(f"unknown parameter {name!r}: expected one of {', '.join(PARAMETERS)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"KMeans({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="clusterer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=["float32"]),
            input_tags=InputTags(),
        )

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Return the names of the columns of `transform`: kmeans0, kmeans1, and so on."""
        return np.asarray([f"kmeans{k}" for k in range(len(self._fitted().cluster_centers_))], dtype=object)

    def _check(self) -> None:
        """Check every parameter. The core checks the parameters that depend on the rows."""
        minima = {"n_clusters": 1, "max_iter": 1, "random_state": 0, "n_threads": 1, "train_rows": self.n_clusters}
        for name, minimum in minima.items():
            value = getattr(self, name)
            if (name == "train_rows" and value == "all") or (name in ("train_rows", "n_threads") and value is None):
                continue
            if name == "random_state" and (value is None or isinstance(value, _GENERATORS)):
                continue
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not minimum <= value < 2**63:
                raise InputError(f"{name}={value!r}: expected a whole number of at least {minimum}")
        if not 0 <= self.tol < float("inf"):
            raise InputError(f"tol={self.tol!r}: expected a finite number of at least 0")
        if isinstance(self.init, str) and self.init != "k-means++":
            raise InputError(f"init={self.init!r}: expected 'k-means++' or centroids [n_clusters, d]")
        if not isinstance(self.init, str) and (np.ndim(self.init) != 2 or np.shape(self.init)[0] != self.n_clusters):
            raise InputError(
                f"init of shape {np.shape(self.init)}: expected centroids [{self.n_clusters}, d], one for each cluster"
            )

    def _fitted(self) -> Any:
        """Return this object if it has centroids."""
        if not hasattr(self, "cluster_centers_"):
            message = "KMeans: expected centroids, but there are none yet; call fit or load first"
            exceptions = sys.modules.get("sklearn.exceptions")
            raise NotFittedError(message) if exceptions is None else _both_errors(exceptions.NotFittedError)(message)
        return self


@cache
def _both_errors(of_scikit_learn: type[Exception]) -> type[Exception]:
    """Return an error that is gdig's and scikit-learn's NotFittedError. Who catches the latter has imported it."""
    return type("NotFittedError", (NotFittedError, of_scikit_learn), {"__module__": __name__})


def drawn_random_state(random_state: Any) -> int:
    """Return the random seed of a fit."""
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if random_state is None or isinstance(random_state, np.random.Generator):
        return int(np.random.default_rng(random_state).integers(2**63))
    return int(random_state)
