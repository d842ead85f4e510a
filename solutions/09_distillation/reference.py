"""Lab: knowledge distillation (Hinton, Vinyals and Dean 2015), from softened answers to a student with a teacher."""

from __future__ import annotations

import torch


def soften(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The probabilities of the classes at a temperature: ``[B, C]`` to ``[B, C]``."""
    ### BEGIN SOLUTION
    return torch.softmax(logits / temperature, dim=-1)
    ### END SOLUTION


def soft_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher || student) of the softened answers, mean over the rows of logits ``[B, C]``: a scalar."""
    ### BEGIN SOLUTION
    p = torch.log_softmax(teacher.detach() / temperature, dim=-1)
    q = torch.log_softmax(student / temperature, dim=-1)
    return temperature**2 * (p.exp() * (p - q)).sum(-1).mean()
    ### END SOLUTION


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float, share: float
) -> torch.Tensor:
    """(1 - share) cross-entropy with the labels ``[B]`` + share times the soft loss: a scalar."""
    ### BEGIN SOLUTION
    hard = torch.nn.functional.cross_entropy(student, labels)
    return (1 - share) * hard + share * soft_loss(student, teacher, temperature)
    ### END SOLUTION


def step(
    weight: torch.Tensor,
    bias: torch.Tensor,
    x: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    share: float,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight ``[C, P]`` and bias ``[C]`` of a linear student after one step of gradient descent.

    Its logits are ``x weight^T + bias`` for the inputs ``x [B, P]``; ``teacher [B, C]`` has those of the teacher.
    """
    ### BEGIN SOLUTION
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in (weight, bias))
    loss = distillation_loss(x @ weight.T + bias, teacher, labels, temperature, share)
    gradients = torch.autograd.grad(loss, (weight, bias))
    return tuple((p - rate * g).detach() for p, g in zip((weight, bias), gradients, strict=True))
    ### END SOLUTION


### BEGIN SOLUTION
def network(hidden: int) -> torch.nn.Sequential:
    """Two hidden layers: images ``[B, 1, 8, 8]`` to logits ``[B, 10]``."""
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, 10),
    )


def fitted(net: torch.nn.Module, steps: int, batch, loss) -> torch.nn.Module:
    """Trained with Adam at a falling rate: ``batch()`` gives images and targets, ``loss(logits, *targets)`` a loss."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, *targets = batch()
        optimizer.zero_grad()
        loss(net(x), *targets).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def students(x: torch.Tensor, labels: torch.Tensor, told: torch.Tensor, steps: int) -> list[torch.nn.Module]:
    """Two networks that begin alike: one learns from the teacher's logits ``told`` too, the other from labels alone."""
    taught, alone = network(32), network(32)
    alone.load_state_dict(taught.state_dict())
    fitted(taught, steps, lambda: (x, told, labels), lambda z, v, y: distillation_loss(z, v, y, 4.0, 0.9))
    fitted(alone, steps, lambda: (x, labels), torch.nn.functional.cross_entropy)
    return [taught, alone]


def as_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.float() / 255


### END SOLUTION


def experiment(
    images: torch.Tensor, labels: torch.Tensor, transfer: torch.Tensor, queries: torch.Tensor, steps: int, seed: int
) -> list[torch.Tensor]:
    """Train a large teacher, and for every transfer set two small students: one taught by it, one by labels alone.

    Parameters
    ----------
    images, labels : uint8 ``[N, 1, 8, 8]`` and int64 ``[N]``, what the teacher learns from.
    transfer : int64 ``[E, M]``, for each of E episodes which of the images its students learn from.
    queries : uint8 ``[E, Q, 1, 8, 8]``, what its students are asked: new images of the same classes.
    steps : of training, for each student; the teacher gets three times as many.
    seed : of all that is random.

    Returns
    -------
    The classes of the queries, int64 ``[E, Q]``: by the students with the teacher, then by those without.
    """
    ### BEGIN SOLUTION
    torch.manual_seed(seed)
    x = as_input(images)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(x), (64,))
        return x[chosen], labels[chosen]

    teacher = fitted(network(128), 3 * steps, batch, torch.nn.functional.cross_entropy)
    with torch.no_grad():
        told = teacher(x)
    answers = []
    for few, asked in zip(transfer, as_input(queries), strict=True):
        pair = students(x[few], labels[few], told[few], steps)
        with torch.no_grad():
            answers.append(torch.stack([net(asked).argmax(-1) for net in pair]))
    return list(torch.stack(answers, dim=1))
    ### END SOLUTION
