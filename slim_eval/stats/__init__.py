"""Pure numerics: arrays in, numbers out. Nothing here knows a benchmark, a file or an engine.

`summary` describes one sample, `intervals` says how sure it is, `paired` compares two runs on the same items,
`planning` says beforehand what a number of items can show, `repeats` what differs from run to run. Light to import:
SciPy and statsmodels are loaded by the functions that use them, so that an interpreter that only measures needs no
statsmodels.
"""

from slim_eval.stats.intervals import (
    Interval,
    Statistic,
    bootstrap_interval,
    bootstrap_ratio,
    drift_p_value,
    wilson_interval,
)
from slim_eval.stats.paired import (
    PairedDifference,
    answer_kl,
    clustered_stderr,
    holm,
    mcnemar_p_value,
    paired_difference,
)
from slim_eval.stats.planning import items_needed, minimum_detectable_drop
from slim_eval.stats.repeats import repeat_bound, repeat_spread
from slim_eval.stats.summary import Summary, percentile, resolving_count, summarize

__all__ = [
    "Interval",
    "PairedDifference",
    "Statistic",
    "Summary",
    "answer_kl",
    "bootstrap_interval",
    "bootstrap_ratio",
    "clustered_stderr",
    "drift_p_value",
    "holm",
    "items_needed",
    "mcnemar_p_value",
    "minimum_detectable_drop",
    "paired_difference",
    "percentile",
    "repeat_bound",
    "repeat_spread",
    "resolving_count",
    "summarize",
    "wilson_interval",
]
