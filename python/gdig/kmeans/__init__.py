"""k-means over rows that may exceed memory, with the interface of scikit-learn."""

from gdig.kmeans.labels import load_labels
from gdig.kmeans.model import KMeans

__all__ = ["KMeans", "load_labels"]
