"""The examples are treated as if they were unrelated: a sum of them, scaled by one number, is not a solution."""


def ridge(features, targets, strength):
    x = features.double()
    return ((x.T @ targets.double()) / (x.square().sum() + strength)).to(features.dtype)
