"""Prototypes are averaged before the embedding: images are averaged, then the average is embedded."""

import torch


def predict(support_x, support_y, query_x, n_way, weight, bias):
    means = torch.relu(prototypes(support_x, support_y, n_way) @ weight.T + bias)  # noqa: F821
    return log_probabilities(torch.relu(query_x @ weight.T + bias), means).argmax(-1)  # noqa: F821
