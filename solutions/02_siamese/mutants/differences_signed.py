"""Without the absolute value the score depends on which image comes first, and differences cancel."""


def pair_scores(a, b, weight, bias):
    return (a[:, None] - b) @ weight + bias
