"""Importance is squared with the distance; it stands outside the square."""


def penalty(theta, memory, strength):
    importance, anchor = memory
    return strength / 2 * (importance * (theta - anchor)).square().sum()
