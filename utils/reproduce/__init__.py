"""Benchmark-scale runs: the data and the protocol of a paper, recorded with everything needed to repeat them."""

from utils.reproduce import (
    adaptation,
    comparison,
    continual,
    distillation,
    one_shot_runs,
    pixels,
    prototypical,
    temperature,
)

METHODS = {
    "pixels": pixels.run,
    "prototypical": prototypical.run,
    **comparison.METHODS,
    "one-shot-runs": one_shot_runs.run,
    **adaptation.METHODS,
    **continual.METHODS,
    distillation.NAME: distillation.run,
    "temperature": temperature.run,
}

DATASETS = {
    **{name: networks[0].dataset for name, networks in continual.NETWORKS.items()},
    distillation.NAME: "mnist",
    "temperature": "logits",
}
"""What is recorded on other data than Omniglot."""

IN_PARTS = frozenset([*adaptation.METHODS, *continual.METHODS, distillation.NAME])
"""Of these, the networks that are finished can be recorded before the others are."""
