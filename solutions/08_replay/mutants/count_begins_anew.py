"""Items seen in earlier calls are forgotten: each task begins to count at 0, and drives out the earlier ones."""

import torch


def places(first, size, draws):
    number = torch.arange(len(draws))
    place = torch.where(number < size, number, (draws * (number + 1)).long())
    return torch.where(place < size, place, -1)
