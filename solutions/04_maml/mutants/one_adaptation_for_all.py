"""The support sets of all tasks are thrown together and adapted to once; each task has parameters of its own."""


def meta_loss(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    theta = adapt(theta, support_x.flatten(0, 1), support_y.flatten(), sizes, rate, steps)  # noqa: F821
    return task_loss(theta, query_x.flatten(0, 1), query_y.flatten(), sizes)  # noqa: F821
