"""Benchmark-scale runs: the data and the protocol of a paper, recorded with everything needed to repeat them."""

from utils.reproduce import adaptation, comparison, one_shot_runs, pixels, prototypical

METHODS = {
    "pixels": pixels.run,
    "prototypical": prototypical.run,
    **comparison.METHODS,
    "one-shot-runs": one_shot_runs.run,
    **adaptation.METHODS,
}

IN_PARTS = frozenset(adaptation.METHODS)
"""Of these, the networks that are finished can be recorded before the others are."""
