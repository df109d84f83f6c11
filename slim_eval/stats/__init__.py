"""Pure numerics: arrays in, numbers out, without knowledge of benchmarks, files or engines.

`summary` describes one sample, `intervals` gives confidence intervals, `paired` compares two runs on the same items,
`repeats` describes how much runs of the same work differ.
SciPy and statsmodels are imported by the functions that use them: measuring alone needs no statsmodels.
"""

from slim_eval.stats.intervals import Interval, Statistic, bootstrap_interval, bootstrap_ratio, wilson_interval
from slim_eval.stats.paired import (
    PairedDifference,
    answer_kl,
    clustered_stderr,
    holm,
    items_needed,
    mcnemar_p_value,
    minimum_detectable_drop,
    paired_difference,
)
from slim_eval.stats.summary import drift_p_value, percentile, resolving_count, summarize
from slim_eval.stats.variance_components import RunValue, Variation, limit_factor, log_mean, variation

__all__ = [
    "Interval", "PairedDifference", "RunValue", "Statistic", "Variation", "answer_kl", "bootstrap_interval",
    "bootstrap_ratio", "clustered_stderr", "drift_p_value", "holm", "items_needed", "limit_factor", "log_mean",
    "mcnemar_p_value", "minimum_detectable_drop", "paired_difference", "percentile", "resolving_count", "summarize",
    "variation", "wilson_interval",
]  # fmt: skip
