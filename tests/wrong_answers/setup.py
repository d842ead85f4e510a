"""Typical wrong answers to the exercises of the chapter on episodes and baselines."""

import math

import torch

from wrong_answers.references import reference


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


MISTAKES = {
    "episode": [
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
    "vote": [
        smallest_of_tied_labels,
        farthest,
        lambda s, y, q, n, k: y[torch.cdist(q, s).argmin(1)],
        lambda s, y, q, n, k: y[torch.cdist(q, s).topk(k, largest=False).indices],
        lambda s, y, q, n, k: [0] * len(q),
    ],
    "log_density": [
        lambda s, q, h: (-squares(s, q) / (2 * h**2)).exp().mean(1).log() - constant(s, h),
        lambda s, q, h: (-squares(s, q) / (2 * h**2)).logsumexp(1) - constant(s, h),
        lambda s, q, h: (-squares(s, q) / (2 * h**2)).logsumexp(1) - math.log(len(s)),
        lambda s, q, h: (-squares(s, q) / (2 * h)).logsumexp(1) - math.log(len(s)) - constant(s, h),
        lambda s, q, h: (-squares(s, q) / (2 * h**2)).amax(1) - math.log(len(s)) - constant(s, h),
        lambda s, q, h: 0.0,
    ],
}
