"""Benchmark-scale runs: the data and the protocol of a paper, recorded with everything needed to repeat them."""

from utils.reproduce import pixels, prototypical

METHODS = {"pixels": pixels.run, "prototypical": prototypical.run}
