"""Benchmarks: performance, energy, accuracy, registered in the order in which a run measures them."""

from slim_eval.benchmarks.accuracy import Accuracy
from slim_eval.benchmarks.base import BENCHMARKS
from slim_eval.benchmarks.energy import Energy
from slim_eval.benchmarks.performance import Performance

for _benchmark in (Performance(), Energy(), Accuracy()):
    BENCHMARKS.register(_benchmark)
