"""decay and 1 - decay make a moving average; of decay 1 nothing new is ever learned to be important."""


def consolidate(memory, importance, theta, decay):
    return decay * memory[0] + (1 - decay) * importance, theta
