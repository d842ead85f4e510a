"""The least probable class is predicted instead of the most probable: argmin where argmax belongs."""

import torch


def predict(support_x, support_y, query_x, n_way, weight, bias):
    support, queries = (torch.relu(x @ weight.T + bias) for x in (support_x, query_x))
    return log_probabilities(queries, prototypes(support, support_y, n_way)).argmin(-1)  # noqa: F821
