"""Alpha MAML (Behl, Baydin and Torr 2019): both rates follow their own gradients while training.

Inner rate: dL(theta - alpha g_S, Q) / d alpha = - <g_S, g_Q>, with the gradients on support set and queries: it grows
where they agree. Automatic differentiation gives that when alpha is a parameter
(:class:`utils.meta.rates.LearnedRates` with ``grain="one"``). Outer rate: :class:`HypergradientDescent`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class HypergradientDescent(torch.optim.Optimizer):
    """Gradient descent whose rate follows its own gradient (Baydin et al. 2018, algorithm 4).

    theta_t = theta_{t-1} - beta_t g_t, and d L(theta_t) / d beta_t = - <g_{t+1}, g_t>, so that

    beta_{t+1} = beta_t + hyper_lr * <g_{t+1}, g_t>,

    one beta for all parameters of a group: it grows while consecutive gradients agree, and falls when they begin to
    point back. It is the group's ``"lr"``, and stays at or above 0.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, hyper_lr: float) -> None:
        if not (lr >= 0 and hyper_lr >= 0):
            raise ValueError(f"rates must not be negative; got lr {lr} and hyper_lr {hyper_lr}")
        super().__init__(params, {"lr": lr, "hyper_lr": hyper_lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            present = [value for value in group["params"] if value.grad is not None]
            agreement = sum(
                float((value.grad * self.state[value]["previous"]).sum())
                for value in present
                if "previous" in self.state[value]
            )
            if not math.isfinite(agreement):
                raise FloatingPointError(
                    "consecutive gradients have no finite product: lower the rates, check the input"
                )
            group["lr"] = max(0.0, group["lr"] + group["hyper_lr"] * agreement)
            for value in present:
                self.state[value]["previous"] = value.grad.clone()
                value.add_(value.grad, alpha=-group["lr"])
        return loss
