"""slim-eval: which small language model should be deployed, at which precision, and with what confidence?

The Python API is five functions, which take the fields of their configs::

    import slim_eval
    slim_eval.run(models="demo", precision="fp16 int8 int4")
    slim_eval.analyze(input_dir="outputs")
    slim_eval.compare("outputs/demo/demo_fp16", "outputs/demo/demo_int8", fail_if=["demo_mmlu_drop>1pp"])
    slim_eval.recommend(input_dir="outputs", preset="balanced")
    frame = slim_eval.load_results("outputs")

What they return has a `verdict`, and shows it with its table in a notebook; docs/python.md describes the objects.

Importing the package imports no heavy package; each function imports what it needs, and loads plugins.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slim_eval._version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from slim_eval.analysis import AnalysisReport
    from slim_eval.analysis.compare.folders import ComparisonReport
    from slim_eval.analysis.recommend.outcome import Recommendation
    from slim_eval.config import AnalysisConfig, CompareConfig, RecommendConfig, RunConfig
    from slim_eval.execution.progress import RunReport

__all__ = [
    "AnalysisConfig",
    "CompareConfig",
    "RecommendConfig",
    "RunConfig",
    "__version__",
    "analyze",
    "compare",
    "load_results",
    "recommend",
    "run",
]


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


def compare(
    a: str | Path | None = None, b: str | Path | None = None, config: CompareConfig | None = None, **options: Any
) -> ComparisonReport:
    """Compare two variants, or two folders of them, like `slim-eval compare A B`; B is judged against A.

    Conditions (``fail_if``) are decided, not enforced: `ComparisonReport.raise_for_conditions` raises. Raises as
    `run`, and `UsageError` if nothing can be compared.
    """
    from slim_eval.analysis.compare.folders import compare_folders
    from slim_eval.config import CompareConfig

    given = {name: value for name, value in (("a", a), ("b", b)) if value is not None}
    return compare_folders(_config(CompareConfig, config, given | options))


def recommend(config: RecommendConfig | None = None, **options: Any) -> Recommendation:
    """The variant to deploy, like `slim-eval recommend`; without a pick if none meets every constraint.

    Instead of a config the fields of its question may be given: ``recommend(input_dir="outputs", min_recovery=0.98)``.
    Raises as `run`.
    """
    from slim_eval.analysis.recommend.recommendation import recommend_from
    from slim_eval.config import RecommendConfig

    own = {name: options.pop(name) for name in ("input_dir", "as_json", "question") if name in options}
    if options and "question" in own:
        raise TypeError("give a question or its fields, not both")
    return recommend_from(_config(RecommendConfig, config, own | ({"question": options} if options else {})))


def load_results(path: str | Path) -> pd.DataFrame:
    """All results in a folder or an archive, one row per variant and one column per metric.

    ``frame.attrs["verdict"]`` is the answer in one sentence. `UsageError` if there are no results.
    """
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
    if name.endswith("Config") and name in __all__:
        from slim_eval import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
