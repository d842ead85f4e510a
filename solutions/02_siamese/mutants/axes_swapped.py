"""Rows and columns are swapped: a row is an embedding of b."""


def pair_scores(a, b, weight, bias):
    return ((a[:, None] - b).abs() @ weight + bias).T
