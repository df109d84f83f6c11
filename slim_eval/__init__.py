"""slim-eval: which small language model should be deployed, at which precision, and with what confidence?

The Python API is three functions and their configs::

    import slim_eval
    slim_eval.run(slim_eval.RunConfig(models="demo", precision="fp16 int8 int4"))
    slim_eval.analyze(slim_eval.AnalysisConfig(input_dir="outputs"))
    frame = slim_eval.load_results("outputs")

Importing the package imports no heavy package; each function imports what it needs, and loads plugins.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slim_eval._version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from slim_eval.analysis import AnalysisReport
    from slim_eval.config import AnalysisConfig, RunConfig
    from slim_eval.execution.progress import RunReport

__all__ = ["AnalysisConfig", "RunConfig", "__version__", "analyze", "load_results", "run"]


def run(config: RunConfig | None = None, **options: Any) -> RunReport:
    """Quantize and measure every variant of a config, like `slim-eval run`.

    Instead of a config its fields may be given: ``run(models="demo", precision="fp16 int8")``.

    Raises:
        TypeError: Both were given.
        pydantic.ValidationError: A field is unknown or its value is invalid.
        SlimEvalError: Nothing could be started, e.g. because a model does not exist.
    """
    from slim_eval.config import RunConfig
    from slim_eval.evaluator import evaluate

    return evaluate(_config(RunConfig, config, options))


def analyze(config: AnalysisConfig | None = None, **options: Any) -> AnalysisReport:
    """Make tables, figures and a report from all results in a folder, like `slim-eval analyze`.

    Instead of a config its fields may be given: ``analyze(input_dir="outputs")``. Raises as `run`, and `UsageError` if
    the folder contains no results.
    """
    from slim_eval.analysis import analyze as analyze_results
    from slim_eval.config import AnalysisConfig

    return analyze_results(_config(AnalysisConfig, config, options))


def load_results(path: str | Path) -> pd.DataFrame:
    """All results in a folder, one row per variant and one column per metric; `UsageError` if there are none."""
    from slim_eval.analysis import load_results as load
    from slim_eval.plugins import load_plugins

    load_plugins()
    return load(Path(path))


def _config(kind: Any, config: Any, options: dict[str, Any]) -> Any:
    from slim_eval.plugins import load_plugins

    if config is not None and options:
        raise TypeError("give a config or its fields, not both")
    load_plugins()
    return config or kind(**options)


def __getattr__(name: str) -> Any:
    if name in ("RunConfig", "AnalysisConfig"):
        from slim_eval import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
