"""The powers are not divided by their sum, so they are no probabilities."""


def soften(probabilities, temperature):
    return probabilities ** (1 / temperature)
