"""The importance of the last task replaces that of the earlier ones, which are then forgotten."""


def consolidate(memory, importance, theta, decay):
    return importance, theta
