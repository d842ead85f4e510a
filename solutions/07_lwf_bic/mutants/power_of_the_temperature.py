"""The power is T instead of 1/T, which makes the probabilities sharper."""


def soften(probabilities, temperature):
    powers = probabilities**temperature
    return powers / powers.sum(-1, keepdim=True)
