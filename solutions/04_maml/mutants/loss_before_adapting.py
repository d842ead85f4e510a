"""The queries are judged with theta, before adapting: that is pre-training."""


def meta_loss(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    return task_loss(theta, query_x.flatten(0, 1), query_y.flatten(), sizes)  # noqa: F821
