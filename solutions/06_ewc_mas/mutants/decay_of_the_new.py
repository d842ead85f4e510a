"""The new importance decays instead of the old one."""


def consolidate(memory, importance, theta, decay):
    return memory[0] + decay * importance, theta
