"""Benchmarks: performance, energy, serving, accuracy, registered in the order in which a run measures them."""

from slim_eval.benchmarks.accuracy import Accuracy
from slim_eval.benchmarks.base import BENCHMARKS
from slim_eval.benchmarks.energy import Energy
from slim_eval.benchmarks.performance import Performance
from slim_eval.benchmarks.serving import Serving

for _benchmark in (Performance(), Energy(), Serving(), Accuracy()):
    BENCHMARKS.register(_benchmark)
