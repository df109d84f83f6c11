"""The Python interface: stable names, and objects that show their verdict in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import slim_eval
from slim_eval.execution.progress import RunReport
from slim_eval.results.store import find_results
from slim_eval.results.variants import Variant
from tests.unit.analysis.planted_study import write_study

DOCUMENT = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture
def study(planted_study: Path) -> Path:
    return planted_study


def test_names_are_stable_and_documented() -> None:
    assert slim_eval.__all__ == [
        "AnalysisConfig", "CompareConfig", "RecommendConfig", "RunConfig", "__version__", "analyze", "compare",
        "load_results", "recommend", "run",
    ]  # fmt: skip
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in slim_eval.__all__:
        assert getattr(slim_eval, name) is not None
        assert name.strip("_") in text, name
    with pytest.raises(AttributeError):
        _ = slim_eval.NoSuchConfig


def test_each_object_shows_its_verdict(study: Path, tmp_path: Path) -> None:
    pair = [study / "Tiny" / f"Tiny_{precision}" for precision in ("fp16", "int4")]
    analysis = slim_eval.analyze(input_dir=study, output_dir=tmp_path / "out", plots=False)
    comparison = slim_eval.compare(*pair, fail_if=["quiz_drop>1pp"])
    recommendation = slim_eval.recommend(input_dir=study, preset="accuracy-critical")
    run = RunReport(study, tuple(variant for variant in find_results(study).variants if variant.records))
    assert analysis.verdict is not None
    assert "<b>Deploy Tiny int8" in analysis._repr_html_()
    assert "<td>Tiny int4</td><td>degraded</td>" in analysis._repr_html_()
    assert "Keep Tiny fp16" in comparison._repr_html_()
    assert "fail if quiz_drop&gt;1pp: holds" in comparison._repr_html_()
    assert "<b>Pick: Tiny fp16" in recommendation._repr_html_()
    assert "<b>Deploy Tiny int8" in run._repr_html_()
    assert RunReport(study)._repr_html_() == ""
    frame = slim_eval.load_results(study)
    assert frame.attrs["verdict"].startswith("Deploy Tiny int8")
    assert "Tiny" in frame._repr_html_()


def test_fields_and_a_config_are_alternatives(study: Path) -> None:
    with pytest.raises(TypeError):
        slim_eval.recommend(slim_eval.RecommendConfig(input_dir=study), preset="balanced")
    with pytest.raises(TypeError):
        slim_eval.recommend(question={}, preset="balanced")
    config = slim_eval.CompareConfig(a=study / "Tiny" / "Tiny_fp16", b=study / "Tiny" / "Tiny_int8")
    assert slim_eval.compare(config=config).verdict.answer == slim_eval.compare(config.a, config.b).verdict.answer


def test_names_with_markup_are_text(make_variant: Callable[..., Variant]) -> None:
    study = write_study(make_variant, "org/<b>&Co")
    html = slim_eval.recommend(input_dir=study)._repr_html_()
    assert "&lt;b&gt;" in html or "_b_" in html
    assert "<b>&" not in html
