"""Every item stays with the same chance of one half, however many have been seen: late ones are too likely."""

import torch


def places(first, size, draws):
    number = torch.arange(first, first + len(draws))
    drawn = torch.where(draws < 0.5, (2 * draws * size).long(), -1)
    return torch.where(number < size, number, drawn)
