"""The mathematics of the course as pure functions on tensors."""

from utils.functional.distances import cosine_similarity, squared_distances
from utils.functional.prototypes import class_means

__all__ = ["class_means", "cosine_similarity", "squared_distances"]
