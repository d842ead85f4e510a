"""Inner rates that are learned with the initialisation: Meta-SGD's, and one for each layer and step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

GRAINS = ("parameter", "tensor", "one")


class LearnedRates(nn.Module):
    """Inner rates by name of the parameter, as a module that is trained along with the network.

    ``grain="parameter"``: one rate for each single number, the vector alpha of Meta-SGD (Li et al. 2017):
    theta' = theta - alpha * grad L(theta), element by element. Its entries may turn negative: direction and length of
    the step are both learned. ``grain="tensor"``: one for each weight or bias as a whole. ``grain="one"``: one for all
    (Alpha MAML, Behl et al. 2019).

    ``steps``: as many rates for each, one an inner step (MAML++, Antoniou et al. 2019, section 4: learned per layer and
    step); ``None``: the same ones at every step. More steps than that, as when testing, go on with the last ones.

    Called with the number of an inner step, it gives the rates by name.
    """

    def __init__(
        self, params: Mapping[str, Tensor], initial: float, grain: str = "parameter", steps: int | None = None
    ) -> None:
        super().__init__()
        if grain not in GRAINS:
            raise ValueError(f"grain must be one of {GRAINS}; got {grain!r}")
        if steps is not None and steps < 1:
            raise ValueError(f"rates are for at least 1 step; got {steps}")
        self.names, self.steps = tuple(params), steps
        lead = () if steps is None else (steps,)
        values = list(params.values())
        self.values = nn.ParameterList(
            value.new_full((*lead, *(value.shape if grain == "parameter" else ())), initial)
            for value in (values[:1] if grain == "one" else values)
        )

    def forward(self, step: int) -> dict[str, Tensor]:
        values = list(self.values) * (len(self.names) if len(self.values) == 1 else 1)
        row = ... if self.steps is None else min(step, self.steps - 1)
        return {name: value[row] for name, value in zip(self.names, values, strict=True)}

    def means(self, step: int = 0) -> dict[str, float]:
        """The mean rate of every parameter at a step."""
        return {name: float(value.detach().mean()) for name, value in self(step).items()}
