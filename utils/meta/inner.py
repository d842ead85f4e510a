"""The inner loop: what happens within a task, for all tasks of a batch at once, as pure functions of the parameters.

A task's parameters are a dictionary whose tensors carry a leading task axis. The network is applied to all tasks by
``torch.vmap`` (or in a loop), and the *sum* of the tasks' losses is differentiated by ordinary autograd outside: no
task's loss depends on another's parameters, so the gradient of the sum holds every task's own. This order matters.
With the gradient inside, ``vmap(grad(...))``, PyTorch's batch normalisation has a wrong second derivative, silently
(functorch issue 534); outside, only its forward pass is batched, and its derivatives are those of any other layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from utils.data.episodes import Episode

Stacked = dict[str, Tensor]
"""Parameters by name, each with a leading task axis."""

RatesByName = Mapping[str, Tensor | float] | Callable[[int], Mapping[str, Tensor | float]]
"""Inner rates by name of the parameter, or a function of the inner step that gives them so."""

Rates = float | RatesByName
"""One inner rate for all, or one for each parameter."""

Order = int | Callable[[int], int]
"""1 or 2 for all inner steps, or a function of the step."""


@dataclass(frozen=True)
class Path:
    """Where the inner loop went.

    ``params[k]`` are the parameters after ``k`` steps, or only those of the end where the others were not kept;
    ``losses`` is the objective before each step, ``[steps, B]``, without gradient.
    """

    params: list[Stacked]
    losses: Tensor

    @property
    def end(self) -> Stacked:
        return self.params[-1]


def own_parameters(network: nn.Module) -> dict[str, Tensor]:
    """The parameters of ``network`` by name."""
    return dict(network.named_parameters())


def stacked(params: Mapping[str, Tensor], n_tasks: int) -> Stacked:
    """The same parameters for every task: a leading axis of ``n_tasks``, without a copy."""
    return {name: value.expand(n_tasks, *value.shape) for name, value in params.items()}


def split(params: Mapping[str, Tensor], adapted: Sequence[str] | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """``params`` in two: those that the inner loop adapts, and the rest.

    ``adapted`` holds names of modules or parameters (``"head"`` stands for ``"head.weight"`` and ``"head.bias"``);
    ``None`` means all. Raises ``ValueError`` for a name that is nowhere.
    """
    if adapted is None:
        return dict(params), {}
    for wanted in adapted:
        if not any(_belongs(name, wanted) for name in params):
            raise ValueError(f"nothing to adapt is called {wanted!r}; the parameters are {', '.join(params)}")
    chosen = {name for name in params if any(_belongs(name, wanted) for wanted in adapted)}
    rest = {name: value for name, value in params.items() if name not in chosen}
    return {name: params[name] for name in params if name in chosen}, rest


def _belongs(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}.")


def apply(
    network: nn.Module,
    adapted: Mapping[str, Tensor],
    shared: Mapping[str, Tensor],
    x: Tensor,
    vectorised: bool = True,
    **options: object,
) -> Tensor:
    """``network`` of every task on the task's own inputs: ``x`` is ``[B, N, ...]``, so is the result.

    ``adapted`` carry a task axis, ``shared`` do not. ``vectorised``: all tasks at once by ``torch.vmap``, which is
    faster where many small operations are to be done (small images, GPUs); else one after the other.
    """

    def one(own: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(network, {**shared, **own}, (inputs,), options)

    if not adapted and vectorised:
        return torch.vmap(lambda inputs: one({}, inputs))(x)
    if vectorised:
        return torch.vmap(one)(dict(adapted), x)
    tasks = zip(*(value.unbind() for value in adapted.values()), strict=True) if adapted else [()] * len(x)
    outputs = [one(dict(zip(adapted, own, strict=True)), inputs) for own, inputs in zip(tasks, x, strict=True)]
    return torch.stack(outputs)


def predict(
    network: nn.Module,
    adapted: Mapping[str, Tensor],
    shared: Mapping[str, Tensor],
    episode: Episode,
    statistics: str,
    vectorised: bool = True,
) -> Tensor:
    """Outputs of every task's network for the task's queries, ``[B, Q, ...]``.

    ``statistics``: of the queries themselves (``"batch"``: transductive), of the support images as the same network
    sees them (``"support"``), or the averages (``"running"``).
    """
    if statistics != "support":
        return apply(network, adapted, shared, episode.query_x, vectorised, statistics=statistics)
    both, n_support = torch.cat([episode.support_x, episode.query_x], dim=1), episode.support_x.shape[1]
    options = {"statistics": "support", "n_support": n_support}
    return apply(network, adapted, shared, both, vectorised, **options)[:, n_support:]


def losses_of(criterion: Callable[..., Tensor], outputs: Tensor, y: Tensor) -> Tensor:
    """Mean loss of every task, ``[B]``, from ``outputs [B, N, ...]``; ``criterion`` is a loss as of ``torch.nn``.

    Raises ``ValueError`` for targets that are numbers of another shape: a squared error would spread them over it.
    """
    if y.is_floating_point() and y.shape != outputs.shape:
        raise ValueError(f"targets {list(y.shape)} do not have the shape of the outputs, {list(outputs.shape)}")
    each = criterion(outputs.flatten(0, 1), y.flatten(0, 1), reduction="none")
    return each.reshape(len(y), -1).mean(1)


def rates_at(rates: RatesByName, step: int, names: Sequence[str]) -> Mapping[str, Tensor | float]:
    """The rate of every parameter at an inner step. Raises ``ValueError`` where one has none."""
    found = rates(step) if callable(rates) else rates
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"no inner rate for {', '.join(missing)}")
    return found


def descend(
    objective: Callable[[Stacked, int], Tensor],
    start: Stacked,
    rates: Rates,
    steps: int,
    order: Order = 2,
    keep: bool = True,
) -> Path:
    """``steps`` steps of gradient descent, every task on its own objective.

    phi_0 = theta, phi_{k+1} = phi_k - alpha_k * grad L(phi_k)

    ``objective(params, k)`` gives the losses ``[B]`` of all tasks at step ``k``. With ``order=2`` the result can be
    differentiated through the gradients; with ``order=1`` these are taken as constants, so that
    d phi_K / d theta = 1; a function of the step chooses for each (:func:`truncated`). Under ``torch.no_grad`` the path
    has no graph. Without ``keep``, only the end of the path remains.

    Raises ``FloatingPointError`` where a loss is no longer finite, naming task and step; ``ValueError`` for another
    order or a negative number of steps.
    """
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"the number of inner steps must be a whole number of at least 0; got {steps!r}")
    orders = [order(step) if callable(order) else order for step in range(max(1, steps))]
    if any(one not in (1, 2) for one in orders):
        raise ValueError(f"order must be 1 or 2; got {orders[0] if not callable(order) else orders!r}")
    path, losses, constant = [start], [], not torch.is_grad_enabled()
    with torch.enable_grad():
        for step in range(steps):
            params = {
                name: value if value.requires_grad and not constant else value.detach().requires_grad_()
                for name, value in path[-1].items()
            }
            loss = objective(params, step)
            losses.append(loss.detach())
            one_rate = isinstance(rates, int | float)
            scaled = -rates * loss if one_rate else loss  # one rate: on a few losses, instead of on all gradients
            slopes = torch.autograd.grad(scaled.sum(), list(params.values()), create_graph=orders[step] == 2)
            with torch.set_grad_enabled(not constant):
                if one_rate:
                    new = {name: params[name] + slope for name, slope in zip(params, slopes, strict=True)}
                else:
                    rate = rates_at(rates, step, list(params))
                    new = {
                        name: torch.addcmul(value, _rate(rate[name], slope), slope, value=-1)
                        for (name, value), slope in zip(params.items(), slopes, strict=True)
                    }
            path = [*path, new] if keep else [new]
    one = next(iter(start.values()))
    found = torch.stack(losses) if losses else one.new_zeros(0, len(one))
    check_finite(found, rates)
    return Path(path, found)


def truncated(steps: int, last: int) -> Callable[[int], int]:
    """The ``order`` of back-propagation through the ``last`` of ``steps`` inner steps alone."""
    return lambda step: 2 if step >= steps - last else 1


def _rate(rate: Tensor | float, like: Tensor) -> Tensor:
    return rate if isinstance(rate, Tensor) else like.new_tensor(rate)


def check_finite(losses: Tensor, rates: Rates | None = None, first: int = 0) -> None:
    """``FloatingPointError`` naming the first step and its first task whose loss, of ``[steps, B]``, is not finite.

    ``first`` is the step of the first row.
    """
    if bool(losses.isfinite().all()):
        return
    step, task = (~losses.isfinite()).nonzero()[0].tolist()
    rate = f" of {rates}" if isinstance(rates, int | float) else ""
    before = f"; it was {float(losses[step - 1, task]):.3g} a step before" if step else ""
    raise FloatingPointError(
        f"the inner loop of task {task} of the batch diverges: its loss at step {first + step} is "
        f"{float(losses[step, task])}{before}. Lower the inner rate{rate}, or check the input"
    )


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return value.detach().clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, scale: Tensor):
        slopes = [scale * slope for slope in ctx.saved_tensors]
        return None, None, *slopes, *[None] * len(slopes)


def with_gradient(value: Tensor, params: Mapping[str, Tensor], gradient: Mapping[str, Tensor]) -> Tensor:
    """The scalar ``value``, whose gradient with respect to ``params`` is said to be ``gradient``.

    For methods whose direction is not found by differentiating what they compute; optimisers and training loops need
    not know. First derivatives only.
    """
    names = list(params)
    return _WithGradient.apply(value, len(names), *(params[n] for n in names), *(gradient[n] for n in names))
