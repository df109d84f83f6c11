"""Pure numerics: arrays in, numbers out. Nothing here knows a benchmark, a file or an engine.

`summary` describes one sample, `intervals` says how sure it is, `paired` compares two runs on the same items,
`planning` says beforehand what a number of items can show.
"""

from slim_eval.stats.summary import Summary, percentile, resolving_count, summarize

__all__ = ["Summary", "percentile", "resolving_count", "summarize"]
