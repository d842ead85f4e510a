"""The probabilities are divided by T and then by their sum, which changes nothing."""


def soften(probabilities, temperature):
    divided = probabilities / temperature
    return divided / divided.sum(-1, keepdim=True)
