"""The draw is made among the places: every new item stays, and the old ones are soon gone."""

import torch


def places(first, size, draws):
    number = torch.arange(first, first + len(draws))
    return torch.where(number < size, number, (draws * size).long())
