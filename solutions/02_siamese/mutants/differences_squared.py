"""The differences are squared instead of taken absolutely."""


def pair_scores(a, b, weight, bias):
    return (a[:, None] - b).square() @ weight + bias
