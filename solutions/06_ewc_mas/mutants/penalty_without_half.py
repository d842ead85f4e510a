"""The half in front of the strength is missing, so the pull is twice as strong as asked."""


def penalty(theta, memory, strength):
    importance, anchor = memory
    return strength * (importance * (theta - anchor).square()).sum()
