"""The penalty is averaged over the parameters instead of summed."""


def penalty(theta, memory, strength):
    importance, anchor = memory
    return strength / 2 * (importance * (theta - anchor).square()).mean()
