"""Support and queries have to go through the same embedding; here the queries miss the ReLU."""

import torch


def predict(support_x, support_y, query_x, n_way, weight, bias):
    means = prototypes(torch.relu(support_x @ weight.T + bias), support_y, n_way)  # noqa: F821
    return log_probabilities(query_x @ weight.T + bias, means).argmax(-1)  # noqa: F821
