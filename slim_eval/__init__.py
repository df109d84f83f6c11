"""slim-eval: which small language model, at which precision, should go into production, and how sure can you be?

The Python API is three functions and their configs::

    import slim_eval
    slim_eval.run(slim_eval.RunConfig(models="demo", precision="fp16 int8 int4"))
    slim_eval.analyze(slim_eval.AnalysisConfig(input_dir="outputs"))
    frame = slim_eval.load_results("outputs")

Importing the package loads none of the heavy ones; each function opens what it needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slim_eval._version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from slim_eval.analysis import AnalysisReport
    from slim_eval.config import AnalysisConfig, RunConfig
    from slim_eval.evaluator import RunReport

__all__ = ["AnalysisConfig", "RunConfig", "__version__", "analyze", "load_results", "run"]


def run(config: RunConfig | None = None, **options: Any) -> RunReport:
    """Quantize and measure every (model, precision) of a configuration; what `slim-eval run` does.

    Args:
        config: What to run; or its fields as keywords: ``run(models="demo", precision="fp16 int8")``.
        **options: Fields of `RunConfig`, in place of `config`.

    Raises:
        TypeError: Both were given.
        pydantic.ValidationError: A field is unknown or its value cannot be.
        SlimEvalError: Nothing could be started, e.g. a model does not exist.
    """
    from slim_eval.config import RunConfig
    from slim_eval.evaluator import evaluate
    from slim_eval.plugins import load_plugins

    if config is not None and options:
        raise TypeError("give a config or its fields, not both")
    load_plugins()
    return evaluate(config or RunConfig(**options))


def analyze(config: AnalysisConfig | None = None, **options: Any) -> AnalysisReport:
    """Write tables and plots of all results below a folder; what `slim-eval analyze` does.

    Args:
        config: What to analyse; or its fields as keywords: ``analyze(input_dir="outputs")``.
        **options: Fields of `AnalysisConfig`, in place of `config`.

    Raises:
        TypeError: Both were given.
        pydantic.ValidationError: A field is unknown or its value cannot be.
        UsageError: There are no results there.
    """
    from slim_eval.analysis import analyze as analyze_results
    from slim_eval.config import AnalysisConfig
    from slim_eval.plugins import load_plugins

    if config is not None and options:
        raise TypeError("give a config or its fields, not both")
    load_plugins()
    return analyze_results(config or AnalysisConfig(**options))


def load_results(path: str | Path) -> pd.DataFrame:
    """All results below a folder as a tidy table: a row for each (model, precision), a column for each metric.

    Raises:
        UsageError: There are no results there.
    """
    from slim_eval.analysis import load_results as load
    from slim_eval.plugins import load_plugins

    load_plugins()
    return load(Path(path))


def __getattr__(name: str) -> Any:
    if name in ("RunConfig", "AnalysisConfig"):
        from slim_eval import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
