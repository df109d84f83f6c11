"""Pure numerics: arrays in, numbers out, without knowledge of benchmarks, files or engines.

`summary` describes one sample, `intervals` gives confidence intervals, `paired` compares two runs on the same items,
`unpaired` two numbers without the outcomes of items, `curves` finds where two curves over the load cross,
`variance_components` describes how much runs of the same work differ.
SciPy is imported by the functions that use it, because that takes a second.
"""

from slim_eval.stats.curves import Crossing, Crossovers, Curve, crossovers
from slim_eval.stats.intervals import (
    Interval,
    Statistic,
    batches,
    bootstrap_interval,
    bootstrap_ratio,
    wilson_interval,
)
from slim_eval.stats.logprobs import Departure, departure, excess_distance
from slim_eval.stats.paired import (
    PairedDifference,
    PairedRatio,
    answer_kl,
    clustered_stderr,
    holm,
    items_needed,
    items_to_decide,
    mcnemar_p_value,
    minimum_detectable_drop,
    paired_difference,
    perplexity_ratio,
    total_ratio,
)
from slim_eval.stats.summary import drift_p_value, percentile, resolving_count, summarize
from slim_eval.stats.unpaired import (
    UnpairedDifference,
    effective_items,
    score_interval,
    unpaired_amounts,
    unpaired_difference,
    unpaired_items_needed,
)
from slim_eval.stats.variance_components import RunValue, Variation, limit_factor, log_mean, variation

__all__ = [
    "Crossing", "Crossovers", "Curve", "Departure", "Interval", "PairedDifference", "PairedRatio", "RunValue",
    "Statistic", "UnpairedDifference", "Variation", "answer_kl", "batches", "bootstrap_interval", "bootstrap_ratio",
    "clustered_stderr", "crossovers", "departure", "drift_p_value", "effective_items", "excess_distance", "holm",
    "items_needed", "items_to_decide", "limit_factor", "log_mean", "mcnemar_p_value", "minimum_detectable_drop",
    "paired_difference", "percentile", "perplexity_ratio", "resolving_count", "score_interval", "summarize",
    "total_ratio", "unpaired_amounts", "unpaired_difference", "unpaired_items_needed", "variation", "wilson_interval",
]  # fmt: skip
