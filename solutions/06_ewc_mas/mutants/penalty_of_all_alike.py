"""Importance is left out: every parameter is held alike, which is an L2 penalty."""


def penalty(theta, memory, strength):
    return strength / 2 * (theta - memory[1]).square().sum()
