"""The pull goes to 0 instead of to the anchor: weighted weight decay."""


def penalty(theta, memory, strength):
    return strength / 2 * (memory[0] * theta.square()).sum()
