"""Typical wrong answers to the exercises of the chapter on EWC and MAS."""

import torch


def fisher_with(weights_of, mean=True):
    """A wrong Fisher information: ``weights_of(p)`` in the place of p (1 - p)."""

    def answer(x, weight):
        p = (x @ weight.mT).softmax(1)
        found = weights_of(p).mT @ x.square()
        return found / len(x) if mean else found

    return answer


def gradient_of_the_mean(x, weight):
    """With the likeliest class as label, the square of the batch's mean gradient."""
    p = (x @ weight.mT).softmax(1)
    residual = torch.eye(len(weight), dtype=p.dtype)[p.argmax(1)] - p
    return (residual.mT @ x / len(x)).square()


def likeliest_class(p):
    return (torch.eye(p.shape[1], dtype=p.dtype)[p.argmax(1)] - p).square()


def parabola_with(centre):
    """Right curvatures, around another centre."""
    return lambda curvatures, centres: (curvatures.sum(0), centre(curvatures, centres))


def weighted_centre(curvatures, centres):
    return (curvatures * centres).sum(0) / curvatures.sum(0)


def hebb_with(after, scale=2.0):
    """mean_k scale y_i y_j with ``after(before, weight, bias)`` as the outputs."""
    return lambda before, weight, bias: scale * after(before, weight, bias).mT @ before / len(before)


def fired(before, weight, bias):
    return (before @ weight.mT + bias).relu()


MISTAKES = {
    "fisher": [
        fisher_with(lambda p: p * (1 - p), mean=False),
        fisher_with(lambda p: p),
        fisher_with(lambda p: (1 - p).square()),
        fisher_with(likeliest_class),
        gradient_of_the_mean,
        lambda x, weight: fisher_with(lambda p: p * (1 - p))(x, weight).mT,
        lambda x, weight: fisher_with(lambda p: p * (1 - p))(x, weight).sum(),
    ],
    "one_parabola": [
        parabola_with(weighted_centre),
        parabola_with(lambda curvatures, centres: centres[-1]),
        parabola_with(lambda curvatures, centres: centres.mean(0)),
        parabola_with(lambda curvatures, centres: (curvatures * centres).sum(0)),
        lambda curvatures, centres: (curvatures.mean(0), weighted_centre(curvatures, centres)),
        lambda curvatures, centres: (curvatures.amax(0), weighted_centre(curvatures, centres)),
        lambda curvatures, centres: curvatures.sum(0),
    ],
    "hebbian_importance": [
        hebb_with(lambda before, weight, bias: before @ weight.mT + bias),
        hebb_with(lambda before, weight, bias: (before @ weight.mT + bias).abs()),
        hebb_with(lambda before, weight, bias: (before @ weight.mT).relu()),
        hebb_with(lambda before, weight, bias: (fired(before, weight, bias) > 0).double()),
        hebb_with(fired, scale=1.0),
        hebb_with(fired, scale=18.0),
        lambda before, weight, bias: 2 * fired(before, weight, bias).mean(0)[:, None] * before.mean(0),
        lambda before, weight, bias: hebb_with(fired)(before, weight, bias).mT,
    ],
}
