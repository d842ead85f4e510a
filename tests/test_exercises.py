"""The checks of the exercises pass the reference and refuse typical mistakes; an empty answer is not a wrong one."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from utils import exercises

ROOT = Path(__file__).resolve().parent.parent


def reference(chapter: str):
    spec = importlib.util.spec_from_file_location("reference", ROOT / "solutions" / chapter / "exercises.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHAPTERS = {
    "setup": "01_few_shot_setup",
    "siamese": "02_siamese",
    "prototypical": "03_prototypical",
    "maml": "04_maml",
    "imaml": "05_imaml_r2d2",
    "kernels": "90_from_formula_to_kernel",
}
"""The module of each chapter's exercises, and the folder of their reference solutions."""


def answer(**parts):
    """The reference for drawing an episode with something changed: ``parts`` are functions of its four tensors."""

    def changed(images, labels, n_way, k_shot, n_query, generator):
        drawn = reference("01_few_shot_setup").episode(images, labels, n_way, k_shot, n_query, generator)
        names = ("support_x", "support_y", "query_x", "query_y")
        episode = dict(zip(names, drawn, strict=True))
        return tuple(parts[name](episode) if name in parts else episode[name] for name in names)

    return changed


def with_repeated_images(images, labels, n_way, k_shot, n_query, generator):
    """Draws the queries anew, so that a support image can be among them."""
    classes = labels.unique()[torch.randperm(len(labels.unique()), generator=generator)[:n_way]]

    def draw(number):
        of_class = [(labels == c).nonzero()[:, 0] for c in classes]
        rows = [rows[torch.randperm(len(rows), generator=generator)[:number]] for rows in of_class]
        return images[torch.cat(rows)], torch.arange(n_way).repeat_interleave(number)

    return *draw(k_shot), *draw(n_query)


def without_the_generator(images, labels, n_way, k_shot, n_query, generator):
    other = torch.Generator().manual_seed(int(torch.randint(10**6, ())))
    return reference("01_few_shot_setup").episode(images, labels, n_way, k_shot, n_query, other)


def always_the_first_classes(images, labels, n_way, k_shot, n_query, generator):
    some = labels <= labels.unique()[n_way - 1]
    episode = reference("01_few_shot_setup").episode
    return episode(images[some], labels[some], n_way, k_shot, n_query, generator)


def always_the_first_images(images, labels, n_way, k_shot, n_query, generator):
    classes = labels.unique()[torch.randperm(len(labels.unique()), generator=generator)[:n_way]]
    rows = torch.stack([(labels == c).nonzero()[: k_shot + n_query, 0] for c in classes])
    return (
        images[rows[:, :k_shot].flatten()],
        torch.arange(n_way).repeat_interleave(k_shot),
        images[rows[:, k_shot:].flatten()],
        torch.arange(n_way).repeat_interleave(n_query),
    )


def smallest_of_tied_labels(support, support_y, query, n_way, k):
    nearest = torch.cdist(query, support).topk(k, largest=False).indices
    return support_y[nearest].mode(1).values


def farthest(support, support_y, query, n_way, k):
    nearest = torch.cdist(query, support).topk(k).indices
    return support_y[nearest].mode(1).values


def squares(support, query):
    return torch.cdist(query, support).square()


def constant(support, h):
    return support.shape[1] / 2 * math.log(2 * math.pi * h**2)


def both_kinds(scores, labels, diagonal=False):
    """The mean of same and different pairs; on purpose with the diagonal if asked for."""
    same = labels[:, None] == labels
    losses = F.binary_cross_entropy_with_logits(scores, same.to(scores.dtype), reduction="none")
    other = diagonal | ~torch.eye(len(labels), dtype=torch.bool)
    return (losses[same & other].mean() + losses[~same].mean()) / 2


def unequal_means_by_equal_split(embedding, labels, n_way):
    return embedding.unflatten(0, (n_way, -1)).mean(1)


def sums_instead_of_means(embedding, labels, n_way):
    return torch.stack([embedding[labels == k].sum(0) for k in range(n_way)])


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


def slope_of(loss, phi):
    return torch.autograd.grad(loss(phi), phi, create_graph=True)[0]


def curvature_times(loss, phi, v):
    return torch.autograd.grad(slope_of(loss, phi) @ v, phi)[0]


def by_the_dense_matrix(loss, phi, v, strength):
    return v + torch.autograd.functional.hessian(loss, phi) @ v / strength


def by_differences(loss, phi, v, strength):
    return v + (slope_of(loss, phi + 0.01 * v) - slope_of(loss, phi)) / 0.01 / strength


def regression_parts(x, y, q, t, theta, strength, solved=True):
    """H, the adapted weights (theta itself if not solved) and the gradient on the queries there."""
    hessian = 2 / len(x) * x.T @ x
    eye = torch.eye(len(theta), dtype=theta.dtype)
    phi = torch.linalg.solve(hessian + strength * eye, 2 / len(x) * x.T @ y + strength * theta) if solved else theta
    return hessian, eye, 2 / len(q) * q.T @ (q @ phi - t)


def solved_with(system, solved=True):
    """A wrong implicit gradient: ``system(H, I, lambda)`` is solved for the gradient on the queries."""

    def answer(x, y, q, t, theta, strength):
        hessian, eye, at_phi = regression_parts(x, y, q, t, theta, strength, solved)
        return torch.linalg.solve(system(hessian, eye, strength), at_phi)

    return answer


def primal_ridge(x, y, strength):
    return torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def dual_ridge(x, y, strength, scale=1.0, transposed=True):
    a = torch.linalg.solve(x @ x.T * scale + strength * torch.eye(len(x), dtype=x.dtype), y)
    return x.T @ a if transposed else a


MISTAKES = {
    ("setup", "episode"): [
        answer(query_y=lambda e: e["query_y"].flip(0)),
        answer(support_y=lambda e: e["support_y"] + 1),
        answer(query_x=lambda e: torch.cat([e["support_x"], e["query_x"]])[: len(e["query_x"])]),
        answer(support_x=lambda e: e["support_x"][::2]),
        answer(support_x=lambda e: e["support_x"][::2].repeat_interleave(2, 0)),
        lambda *arguments: answer()(*arguments)[:2],
        with_repeated_images,
        without_the_generator,
        always_the_first_classes,
        always_the_first_images,
    ],
    ("setup", "vote"): [
        smallest_of_tied_labels,
        farthest,
        lambda s, y, q, n, k: y[torch.cdist(q, s).argmin(1)],
        lambda s, y, q, n, k: y[torch.cdist(q, s).topk(k, largest=False).indices],
        lambda s, y, q, n, k: [0] * len(q),
    ],
    ("setup", "log_density"): [
        lambda s, q, h: (-squares(s, q) / (2 * h**2)).exp().mean(1).log() - constant(s, h),
        lambda s, q, h: (-squares(s, q) / (2 * h**2)).logsumexp(1) - constant(s, h),
        lambda s, q, h: (-squares(s, q) / (2 * h**2)).logsumexp(1) - math.log(len(s)),
        lambda s, q, h: (-squares(s, q) / (2 * h)).logsumexp(1) - math.log(len(s)) - constant(s, h),
        lambda s, q, h: (-squares(s, q) / (2 * h**2)).amax(1) - math.log(len(s)) - constant(s, h),
        lambda s, q, h: 0.0,
    ],
    ("siamese", "pair_loss"): [
        lambda s, y: F.binary_cross_entropy_with_logits(s, (y[:, None] == y).to(s.dtype)),
        lambda s, y: F.binary_cross_entropy_with_logits(s.triu(1), (y[:, None] == y).to(s.dtype)),
        lambda s, y: both_kinds(s, y, diagonal=True),
        lambda s, y: both_kinds(s, y) * 2,
        lambda s, y: both_kinds(-s, y),
        lambda s, y: both_kinds(s, y)[None],
    ],
    ("siamese", "hardest"): [
        lambda d, y: (d.masked_fill(y[:, None] != y, -1).amax(1), d.amin(1)),
        lambda d, y: (d.masked_fill(y[:, None] != y, 99).amin(1), d.masked_fill(y[:, None] == y, 99).amin(1)),
        lambda d, y: (d.masked_fill(y[:, None] != y, -1).amax(1), d.masked_fill(y[:, None] == y, -1).amax(1)),
        lambda d, y: d.masked_fill(y[:, None] != y, -1).amax(1),
    ],
    ("siamese", "threshold"): [
        lambda s, share: float(s.quantile(1 - share)),
        lambda s, share: float(s.sort().values[int(share * len(s))]),
        lambda s, share: float(s.max()),
        lambda s, share: float(s.sort(descending=True).values[max(0, int(share * len(s)) - 1)]),
    ],
    ("prototypical", "prototypes"): [unequal_means_by_equal_split, sums_instead_of_means, lambda e, y, n: [0] * n],
    ("prototypical", "linear_head"): [
        lambda c: (c, -c.square().sum(-1)),
        lambda c: (2 * c, c.square().sum(-1)),
        lambda c: (2 * c, -c.norm(dim=-1)),
        lambda c: 2 * c,
    ],
    ("prototypical", "interval"): [
        lambda a: (float(a.mean()), float(a.std())),
        lambda a: (float(a.mean()), float(1.96 * a.std() / len(a) ** 0.5)),
        lambda a: (float(a.mean()), float(a.std() / len(a) ** 0.5)),
        lambda a: (float(a.median()), float(1.96 * a.std() / len(a) ** 0.5)),
    ],
    ("maml", "inner_step"): [
        lambda loss, p, a: {n: v - a * g for (n, v), g in zip(p.items(), gradients(loss, p), strict=True)},
        lambda loss, p, a: {n: v - a * g.detach() for (n, v), g in zip(p.items(), gradients(loss, p), strict=True)},
        lambda loss, p, a: {n: (v - a * g).detach() for (n, v), g in zip(p.items(), gradients(loss, p), strict=True)},
        lambda loss, p, a: {
            n: v + a * g for (n, v), g in zip(p.items(), gradients(loss, p, create_graph=True), strict=True)
        },
        lambda loss, p, a: list(p.values()),
        step_in_place,
    ],
    ("maml", "meta_gradient"): [
        lambda x, y, q, t, w, a: first_order(x, y, q, t, w, a),
        lambda x, y, q, t, w, a: first_order(x, y, q, t, w, 0.0),
        lambda x, y, q, t, w, a: regression().meta_gradient(x, y, q, t, w, a / 2),
        lambda x, y, q, t, w, a: first_order(x, y, q, t, w, a) * 2 - regression().meta_gradient(x, y, q, t, w, a),
        lambda x, y, q, t, w, a: regression().meta_gradient(x, y, q, t, w, a)[:2],
    ],
    ("maml", "is_transductive"): [
        lambda predict, x: False,
        lambda predict, x: True,
        lambda predict, x: not torch.equal(predict(x), torch.cat([predict(one[None]) for one in x])),
        lambda predict, x: not torch.allclose(predict(x)[0], predict(x[:1])[0]),
        lambda predict, x: None,
    ],
    ("imaml", "system_product"): [
        lambda loss, phi, v, strength: curvature_times(loss, phi, v),
        lambda loss, phi, v, strength: v + curvature_times(loss, phi, v),
        lambda loss, phi, v, strength: v + strength * curvature_times(loss, phi, v),
        lambda loss, phi, v, strength: v + slope_of(loss, phi) * v / strength,
        lambda loss, phi, v, strength: slope_of(loss, phi) @ v,
        by_the_dense_matrix,
        by_differences,
    ],
    ("imaml", "implicit_gradient"): [
        lambda *arguments: regression_parts(*arguments)[2],
        solved_with(lambda hessian, eye, strength: hessian + strength * eye),
        solved_with(lambda hessian, eye, strength: eye + hessian),
        solved_with(lambda hessian, eye, strength: eye + hessian / 2 / strength),
        solved_with(lambda hessian, eye, strength: eye + hessian / strength, solved=False),
        lambda x, y, q, t, theta, strength: regression_parts(x, y, q, t, theta, strength)[2][:2],
    ],
    ("imaml", "ridge_weights"): [
        primal_ridge,
        lambda x, y, strength: dual_ridge(x, y, strength, scale=1 / len(x)),
        lambda x, y, strength: dual_ridge(x, y, strength, transposed=False),
        lambda x, y, strength: dual_ridge(x, y, len(x) * strength),
        lambda x, y, strength: dual_ridge(x, y, strength**2),
        lambda x, y, strength: (dual_ridge(x, y, strength),),
    ],
    ("kernels", "log_probabilities"): [
        lambda q, c: (2 * q @ c.mT - c.square().sum(-1)).log_softmax(-1),
        lambda q, c: (2 * q @ c.mT - c.square().sum(-1)).log_softmax(0),
        lambda q, c: ((q - c.mean(0)) @ (c - c.mean(0)).mT).log_softmax(-1),
        lambda q, c: (-torch.cdist(q, c)).log_softmax(-1),
        lambda q, c: (-(q.double()[:, None] - c).square().sum(-1)).log_softmax(-1),
    ],
    ("kernels", "weight_gradient"): [
        lambda a, b, s, t: (a * s).sum(0) + (b * t).sum(0),
        lambda a, b, s, t: ((a - a.mean(0)) * s).sum(0) + ((b - b.mean(0)) * t).sum(0),
        lambda a, b, s, t: ((a - 1000) * s).sum(0) - ((b - 1000) * t).sum(0),
        lambda a, b, s, t: s.sum(0),
        lambda a, b, s, t: a * s,
    ],
}


def unwritten(*_):
    raise NotImplementedError


def exercise(chapter: str, name: str):
    return getattr(getattr(exercises, chapter), name)


@pytest.mark.parametrize(("chapter", "name"), MISTAKES)
def test_the_reference_passes(chapter, name, capsys):
    assert exercise(chapter, name).check(getattr(reference(CHAPTERS[chapter]), name))
    assert capsys.readouterr().out.rstrip().endswith("passed")


@pytest.mark.parametrize(("chapter", "name"), MISTAKES)
def test_an_empty_answer_is_not_attempted(chapter, name, capsys):
    assert not exercise(chapter, name).check(unwritten)
    assert "not attempted yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chapter", "name", "index"), [(*key, i) for key, mistakes in MISTAKES.items() for i in range(len(mistakes))]
)
def test_a_typical_mistake_is_named(chapter, name, index, capsys):
    assert not exercise(chapter, name).check(MISTAKES[chapter, name][index])
    said = capsys.readouterr().out
    assert "not yet. " in said
    assert "raised" not in said, "the check should say what is wrong, not trip over it"


def test_every_exercise_is_tested():
    found = {
        (chapter, name)
        for chapter in CHAPTERS
        for name, value in vars(getattr(exercises, chapter)).items()
        if isinstance(value, exercises.Exercise)
    }
    assert found == set(MISTAKES)
