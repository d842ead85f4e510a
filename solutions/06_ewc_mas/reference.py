"""Lab: what a network must not forget: EWC (Kirkpatrick et al. 2017) and MAS (Aljundi et al. 2018)."""

from __future__ import annotations

import torch

Params = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def outputs(params: Params, x: torch.Tensor) -> torch.Tensor:
    """W2 relu(W1 x + b1) + b2 for params = (W1 [H, D], b1 [H], W2 [C, H], b2 [C]): ``[..., D]`` to ``[..., C]``."""
    ### BEGIN SOLUTION
    w1, b1, w2, b2 = params
    return torch.relu(x @ w1.T + b1) @ w2.T + b2
    ### END SOLUTION


def fisher(params: Params, x: torch.Tensor) -> Params:
    """Diagonal Fisher information, a mean over ``x [N, D]`` with labels as the network itself gives them."""
    ### BEGIN SOLUTION
    p = torch.softmax(outputs(params, x), dim=-1)
    total = tuple(torch.zeros_like(value) for value in params)
    for label in range(p.shape[1]):

        def log_p(params: Params, one: torch.Tensor, label: int = label) -> torch.Tensor:
            return torch.log_softmax(outputs(params, one), dim=-1)[label]

        of_each = torch.func.vmap(torch.func.grad(log_p), in_dims=(None, 0))(params, x)  # [N, ...] of each tensor
        weighted = (torch.einsum("n,n...->...", p[:, label], g.square()) for g in of_each)
        total = tuple(sums + more / len(x) for sums, more in zip(total, weighted, strict=True))
    return total
    ### END SOLUTION


def mas_importance(params: Params, x: torch.Tensor) -> Params:
    """Mean over ``x [N, D]`` of the absolute gradient of the squared norm of the outputs."""

    ### BEGIN SOLUTION
    def norm(params: Params, one: torch.Tensor) -> torch.Tensor:
        return outputs(params, one).square().sum()

    of_each = torch.func.vmap(torch.func.grad(norm), in_dims=(None, 0))(params, x)
    return tuple(g.abs().mean(0) for g in of_each)
    ### END SOLUTION


def penalty(theta: torch.Tensor, memory: tuple[torch.Tensor, torch.Tensor], strength: float) -> torch.Tensor:
    """strength / 2 sum_i importance_i (theta_i - anchor_i)^2 of ``[P]``, with memory = (importance, anchor)."""
    ### BEGIN SOLUTION
    importance, anchor = memory
    return strength / 2 * (importance * (theta - anchor).square()).sum()
    ### END SOLUTION


def consolidate(
    memory: tuple[torch.Tensor, torch.Tensor], importance: torch.Tensor, theta: torch.Tensor, decay: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is remembered after one more task, whose importance is ``[P]`` and whose solution ``theta [P]``."""
    ### BEGIN SOLUTION
    return decay * memory[0] + importance, theta.detach().clone()
    ### END SOLUTION


### BEGIN SOLUTION
HIDDEN, BATCH, RATE, MEASURED = 100, 32, 1e-2, 200
STRENGTHS = {"EWC": 30.0, "MAS": 0.03, "plain training": 0.0}


def as_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.float() / 255


def initial(generator: torch.Generator) -> torch.Tensor:
    """All parameters as one vector: small random weights, biases of 0."""
    w1 = torch.randn(HIDDEN, 64, generator=generator) * (2 / 64) ** 0.5
    w2 = torch.randn(10, HIDDEN, generator=generator) * (1 / HIDDEN) ** 0.5
    return flat((w1, torch.zeros(HIDDEN), w2, torch.zeros(10)))


def flat(params: Params) -> torch.Tensor:
    """Four tensors as one vector."""
    return torch.cat([value.flatten() for value in params])


def unflat(theta: torch.Tensor) -> Params:
    """The vector as four tensors again."""
    w1, b1, w2, b2 = theta.split([HIDDEN * 64, HIDDEN, 10 * HIDDEN, 10])
    return w1.view(HIDDEN, 64), b1, w2.view(10, HIDDEN), b2


# of one network for each stream: [S, P], [S, N, 64] to [S, N, 10]
answers_of = torch.func.vmap(lambda theta, x: outputs(unflat(theta), x))


def measured(theta: torch.Tensor, x: torch.Tensor, method: str) -> torch.Tensor:
    """The importance of all parameters ``[S, P]`` for the images ``[S, N, 64]`` of their streams."""
    importance = fisher if method == "EWC" else mas_importance
    return torch.stack([flat(importance(unflat(one), images)) for one, images in zip(theta, x, strict=True)])


def trained(images: torch.Tensor, labels: torch.Tensor, steps: int, method: str, seed: int) -> torch.Tensor:
    """A network for each stream, all trained side by side, after the last of ``images [S, T, N, 64]``: ``[S, P]``."""
    generator = torch.Generator().manual_seed(seed)
    streams, tasks, n_images = labels.shape
    row = torch.arange(streams)[:, None]
    theta = torch.stack([initial(generator) for _ in range(streams)]).requires_grad_()
    memory = torch.zeros_like(theta), theta.detach().clone()
    optimizer = torch.optim.Adam([theta], RATE)  # steps of a bounded size: a stiff penalty cannot throw it out
    for task in range(tasks):
        x, y = as_input(images[:, task]), labels[:, task]
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
            some = torch.randint(n_images, (streams, BATCH), generator=generator)
            logits = answers_of(theta, x[row, some])
            # a sum over the streams, which then do not notice each other
            loss = streams * torch.nn.functional.cross_entropy(logits.flatten(0, 1), y[row, some].flatten())
            loss = loss + penalty(theta, memory, STRENGTHS[method])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if STRENGTHS[method] and task + 1 < tasks:
            some = torch.randperm(n_images, generator=generator)[:MEASURED]
            now = theta.detach().clone()
            memory = consolidate(memory, measured(now, x[:, some], method), now, 1.0)
    return theta.detach()


### END SOLUTION


def experiment(
    images: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, steps: int, seed: int
) -> list[torch.Tensor]:
    """Learn the tasks of every stream with EWC, with MAS and with neither, then classify images of all its tasks.

    Parameters
    ----------
    images : uint8 ``[S, T, N, 64]``, of S streams with T tasks each.
    labels : int64 ``[S, T, N]``, 0 .. 9.
    test : uint8 ``[S, E, Q, 64]``, for each stream E episodes with images of all its tasks, mixed.
    steps : of training on each task.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of ``test``, int64 ``[S * E, Q]``, after the last task: with EWC, with MAS, of plain training.
    """
    ### BEGIN SOLUTION
    answers = []
    for method in STRENGTHS:
        theta = trained(images, labels, steps, method, seed)
        logits = answers_of(theta, as_input(test).flatten(1, 2))
        answers.append(logits.argmax(-1).view(-1, test.shape[2]))
    return answers
    ### END SOLUTION
