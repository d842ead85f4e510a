"""The last place is never drawn: ``<`` of ``size - 1``."""

import torch


def places(first, size, draws):
    number = torch.arange(first, first + len(draws))
    drawn = (draws * (number + 1)).long()
    return torch.where(number < size, number, torch.where(drawn < size - 1, drawn, -1))
