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
    "ewc": "06_ewc_mas",
    "lwf": "07_lwf_bic",
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


def softened(p, temperature):
    """Probabilities to the power of 1 / T, brought to sum 1."""
    p = p ** (1 / temperature)
    return p / p.sum(1, keepdim=True)


def old_loss(of_student, of_recorded=softened, reduce=lambda rows: rows.mean()):
    """L_old with parts changed: ``of_student(logits, T)`` are logarithms, ``of_recorded(p, T)`` targets."""

    def answer(student, recorded, heads, temperature):
        parts = [
            -(of_recorded(recorded[:, h], temperature) * of_student(student[:, h], temperature)).sum(1) for h in heads
        ]
        return reduce(torch.stack(parts).sum(0))

    return answer


def logs(logits, temperature):
    return (logits / temperature).log_softmax(1)


def old_loss_over_all_heads(student, recorded, heads, temperature):
    n = heads[-1].stop
    return old_loss(logs)(student, recorded, [slice(0, n)], temperature)


def nearest_to_the_mean(vectors, m):
    return (vectors - vectors.mean(0)).square().sum(1).argsort()[:m]


def herded(vectors, m, again=False, divide=True):
    """Herding with a mistake: an image may come again, or the sum is not divided by k."""
    mean, total, chosen = vectors.mean(0), torch.zeros_like(vectors[0]), []
    for k in range(1, m + 1):
        distances = (mean - (vectors + total) / (k if divide else 1)).square().sum(1)
        if not again:
            distances[chosen] = torch.inf
        chosen.append(int(distances.argmin()))
        total = total + vectors[chosen[-1]]
    return torch.tensor(chosen)


def corrected_by(loss_of, steps=300, fixed=None):
    """alpha and beta by L-BFGS of ``loss_of(old, new, alpha, beta, labels)``; ``fixed`` is one that does not move."""

    def answer(logits, labels, n_old):
        values = [torch.ones((), dtype=logits.dtype), torch.zeros((), dtype=logits.dtype)]
        free = [value.requires_grad_() for i, value in enumerate(values) if i != fixed]
        optimizer = torch.optim.LBFGS(free, max_iter=steps, line_search_fn="strong_wolfe")
        old, new = logits[:, :n_old], logits[:, n_old:]

        def closure():
            optimizer.zero_grad()
            loss = loss_of(old, new, *values, labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        return tuple(value.item() for value in values)

    return answer


def stage_two(old, new, alpha, beta, labels):
    return F.cross_entropy(torch.cat([old, alpha * new + beta], dim=1), labels)


def stage_two_softmax_twice(old, new, alpha, beta, labels):
    return F.cross_entropy(torch.cat([old, alpha * new + beta], dim=1).softmax(1), labels)


def stage_two_on_the_old(old, new, alpha, beta, labels):
    return F.cross_entropy(torch.cat([alpha * old + beta, new], dim=1), labels)


def stage_two_on_new_images_alone(old, new, alpha, beta, labels):
    own = labels >= old.shape[1]
    return stage_two(old[own], new[own], alpha, beta, labels[own]) + 0.01 * beta.square()


def stage_two_with_decay(old, new, alpha, beta, labels):
    return stage_two(old, new, alpha, beta, labels) + 0.05 * (alpha.square() + beta.square())


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
    ("ewc", "fisher"): [
        fisher_with(lambda p: p * (1 - p), mean=False),
        fisher_with(lambda p: p),
        fisher_with(lambda p: (1 - p).square()),
        fisher_with(likeliest_class),
        gradient_of_the_mean,
        lambda x, weight: fisher_with(lambda p: p * (1 - p))(x, weight).mT,
        lambda x, weight: fisher_with(lambda p: p * (1 - p))(x, weight).sum(),
    ],
    ("ewc", "one_parabola"): [
        parabola_with(weighted_centre),
        parabola_with(lambda curvatures, centres: centres[-1]),
        parabola_with(lambda curvatures, centres: centres.mean(0)),
        parabola_with(lambda curvatures, centres: (curvatures * centres).sum(0)),
        lambda curvatures, centres: (curvatures.mean(0), weighted_centre(curvatures, centres)),
        lambda curvatures, centres: (curvatures.amax(0), weighted_centre(curvatures, centres)),
        lambda curvatures, centres: curvatures.sum(0),
    ],
    ("ewc", "hebbian_importance"): [
        hebb_with(lambda before, weight, bias: before @ weight.mT + bias),
        hebb_with(lambda before, weight, bias: (before @ weight.mT + bias).abs()),
        hebb_with(lambda before, weight, bias: (before @ weight.mT).relu()),
        hebb_with(lambda before, weight, bias: (fired(before, weight, bias) > 0).double()),
        hebb_with(fired, scale=1.0),
        hebb_with(fired, scale=18.0),
        lambda before, weight, bias: 2 * fired(before, weight, bias).mean(0)[:, None] * before.mean(0),
        lambda before, weight, bias: hebb_with(fired)(before, weight, bias).mT,
    ],
    ("lwf", "old_outputs_loss"): [
        old_loss(lambda logits, t: logits.log_softmax(1)),
        old_loss(logs, lambda p, t: p),
        old_loss(lambda logits, t: (logits * t).log_softmax(1)),
        old_loss(lambda logits, t: (logits / t).log_softmax(0)),
        old_loss(lambda logits, t: -logs(logits, t)),
        old_loss(logs, reduce=lambda rows: rows.sum()),
        old_loss(logs, reduce=lambda rows: rows.mean() / 3),
        old_loss(logs, reduce=lambda rows: rows),
        old_loss(lambda logits, t: softened(logits.softmax(1), t).log()),
        old_loss_over_all_heads,
    ],
    ("lwf", "herding"): [
        nearest_to_the_mean,
        lambda vectors, m: herded(vectors, m, again=True),
        lambda vectors, m: herded(vectors, m, divide=False),
        lambda vectors, m: herded(vectors, m).sort().values,
        lambda vectors, m: vectors[herded(vectors, m)],
        lambda vectors, m: herded(vectors - vectors.mean(0) * 0.5, m).flip(0),
        lambda vectors, m: torch.arange(m),
    ],
    ("lwf", "correction"): [
        corrected_by(stage_two_softmax_twice),
        corrected_by(stage_two_on_the_old),
        corrected_by(stage_two_on_new_images_alone),
        corrected_by(stage_two_with_decay),
        corrected_by(stage_two, steps=2),
        corrected_by(stage_two, fixed=0),
        corrected_by(stage_two, fixed=1),
        lambda logits, labels, n_old: (1.0, 0.0),
        lambda logits, labels, n_old: corrected_by(stage_two)(logits, labels, n_old)[0],
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
