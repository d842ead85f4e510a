"""Memory aware synapses (Aljundi et al. 2018): weights that the network's *output* depends on, whatever is right.

EWC asks how the loss moves with a weight, this asks how the function does; no label is needed, so any image will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.continual.importance import (
    Params,
    check_images,
    check_strength,
    copied,
    parameter_importance,
    quadratic_penalty,
    task_batches,
    trained,
    zeros,
)
from utils.continual.learn import Memory, Plain
from utils.data.streams import Stream

OUTPUTS = ("units", "all")


def output_importance(network: nn.Module, batches: Iterable[tuple[Tensor, ...]], units: slice = slice(None)) -> Params:
    """``Omega_i = mean_x | d ||F(x)||^2 / dtheta_i |``: how much the output moves with every parameter.

    The absolute value is taken of every example, and the norm is squared (Aljundi et al. 2018, section 4.1). In the
    gradient of a batch's mean, as in much public code, examples that pull in opposite directions cancel.

    Parameters: ``network`` as for :func:`utils.continual.importance.parameter_importance`; ``batches`` ``(x, ...)``, of
    which only the images are looked at; ``units`` which outputs F is made of, as they are (logits). Returns as that
    function does.
    """

    def losses(outputs: Tensor, *_: Tensor) -> Iterator[Tensor]:
        yield outputs[:, units].square().sum()

    return parameter_importance(network, batches, losses, absolute=True)


def local_importance(network: nn.Module, batches: Iterable[tuple[Tensor, ...]], units: slice = slice(None)) -> Params:
    """The same layer by layer: ``Omega_i = mean_x | d ||F_l(y^{l-1})||^2 / dtheta_i |`` with F_l the layer of i alone.

    A layer is a module with parameters and whatever comes between it and the next one. With a ReLU there,

        Omega_ij = mean_x 2 y_i^{l-1} y_j^l,        for a bias  mean_x 2 y_j^l,

    what the two ends of a synapse do together: Hebb's rule (Aljundi et al. 2018, section 4.3). It needs a network
    whose layers follow one another; ``units`` choose the outputs of the last one.

    Parameters, returns and errors as for :func:`output_importance`.
    """
    inputs: list[Tensor] = []

    def cut(layer: nn.Module, given: tuple) -> tuple:
        inputs.append(given[0])
        return given[0].detach(), *given[1:]  # a layer hears of what is behind it, and of nothing further

    def losses(outputs: Tensor, *_: Tensor) -> Iterator[Tensor]:
        ends = [*inputs[1:], outputs[:, units]]
        inputs.clear()
        yield torch.stack([end.square().sum() for end in ends]).sum()

    layers = [layer for layer in network.modules() if any(True for _ in layer.parameters(recurse=False))]
    handles = [layer.register_forward_pre_hook(cut) for layer in layers]
    try:
        return parameter_importance(network, batches, losses, absolute=True)
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class MAS(Plain):
    """L(theta) + strength sum_i Omega_i (theta_i - theta*_i)^2, theta* the parameters after the last task.

    Omega is the sum over the tasks so far of what :func:`output_importance` finds on the images of each: a sum, as in
    the authors' code, and not a running mean. (Of lambda / 2, as some write it, the strength is the half.)

    Parameters
    ----------
    strength : lambda.
    images : on how many training images of a task Omega is measured; ``None`` for all. Labels are not looked at.
    outputs : ``"units"`` for those that take part in the task, ``"all"`` for every output of the network.
    local : measured layer by layer, by :func:`local_importance`.

    Raises ``ValueError`` for anything else.
    """

    strength: float = 1.0
    images: int | None = None
    outputs: str = "units"
    local: bool = False

    def __post_init__(self) -> None:
        check_strength(self.strength)
        check_images(self.images)
        if self.outputs not in OUTPUTS:
            raise ValueError(f"outputs must be one of {OUTPUTS}; got {self.outputs!r}")

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        return {"importance": zeros(network), "anchor": copied(network)}

    def added(self, network: nn.Module, memory: Memory) -> Tensor:
        return quadratic_penalty(trained(network), memory["importance"], memory["anchor"], 2 * self.strength)

    def after_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        units = stream.units(task, task + 1) if self.outputs == "units" else slice(None)
        batches = task_batches(stream.tasks[task], self.images, generator)
        found = (local_importance if self.local else output_importance)(network, batches, units)
        importance = {name: value + found[name] for name, value in memory["importance"].items()}
        return {"importance": importance, "anchor": copied(network)}
