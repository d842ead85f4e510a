"""The bias is missing, so two equal images are as likely the same as not."""


def pair_scores(a, b, weight, bias):
    return (a[:, None] - b).abs() @ weight
