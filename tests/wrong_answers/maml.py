"""Typical wrong answers to the exercises of the chapter on MAML."""

import torch

from wrong_answers.references import reference


def gradients(loss, params, **options):
    return torch.autograd.grad(loss(params), list(params.values()), **options)


def step_in_place(loss, params, alpha):
    slopes = gradients(loss, params)
    with torch.no_grad():
        for value, slope in zip(params.values(), slopes, strict=True):
            value.sub_(alpha * slope)
    return params


def regression():
    return reference("04_maml")


def first_order(x, y, q, t, w, alpha):
    """The gradient at the adapted weights, without the factor I - alpha H."""
    phi = w - alpha * 2 / len(x) * x.T @ (x @ w - y)
    return 2 / len(q) * q.T @ (q @ phi - t)


MISTAKES = {
    "inner_step": [
        lambda loss, p, a: {n: v - a * g for (n, v), g in zip(p.items(), gradients(loss, p), strict=True)},
        lambda loss, p, a: {n: v - a * g.detach() for (n, v), g in zip(p.items(), gradients(loss, p), strict=True)},
        lambda loss, p, a: {n: (v - a * g).detach() for (n, v), g in zip(p.items(), gradients(loss, p), strict=True)},
        lambda loss, p, a: {
            n: v + a * g for (n, v), g in zip(p.items(), gradients(loss, p, create_graph=True), strict=True)
        },
        lambda loss, p, a: list(p.values()),
        step_in_place,
    ],
    "meta_gradient": [
        lambda x, y, q, t, w, a: first_order(x, y, q, t, w, a),
        lambda x, y, q, t, w, a: first_order(x, y, q, t, w, 0.0),
        lambda x, y, q, t, w, a: regression().meta_gradient(x, y, q, t, w, a / 2),
        lambda x, y, q, t, w, a: first_order(x, y, q, t, w, a) * 2 - regression().meta_gradient(x, y, q, t, w, a),
        lambda x, y, q, t, w, a: regression().meta_gradient(x, y, q, t, w, a)[:2],
    ],
    "is_transductive": [
        lambda predict, x: False,
        lambda predict, x: True,
        lambda predict, x: not torch.equal(predict(x), torch.cat([predict(one[None]) for one in x])),
        lambda predict, x: not torch.allclose(predict(x)[0], predict(x[:1])[0]),
        lambda predict, x: None,
    ],
}
