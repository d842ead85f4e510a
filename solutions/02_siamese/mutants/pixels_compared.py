"""The pixels are compared, without the embedding."""

import torch


def one_shot(support_x, support_y, query_x, embedding, head):
    return support_y[torch.cdist(query_x, support_x, p=1).argmin(-1)]
