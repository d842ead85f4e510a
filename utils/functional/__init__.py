"""The mathematics of the course as pure functions on tensors."""

from utils.functional.distances import cosine_similarity, squared_distances
from utils.functional.distillation import distillation_loss, distillation_terms
from utils.functional.gather import gather_episode
from utils.functional.importance import bias_fisher_diagonal, conv_fisher_diagonal, linear_fisher_diagonal
from utils.functional.pairs import pairwise_weighted_l1
from utils.functional.prototypes import best_of_class, class_means, one_hot
from utils.functional.solvers import conjugate_gradient, crammer_singer, logistic_newton, ridge, ridge_logits

__all__ = [
    "best_of_class",
    "bias_fisher_diagonal",
    "class_means",
    "conjugate_gradient",
    "conv_fisher_diagonal",
    "cosine_similarity",
    "crammer_singer",
    "distillation_loss",
    "distillation_terms",
    "gather_episode",
    "linear_fisher_diagonal",
    "logistic_newton",
    "one_hot",
    "pairwise_weighted_l1",
    "ridge",
    "ridge_logits",
    "squared_distances",
]
