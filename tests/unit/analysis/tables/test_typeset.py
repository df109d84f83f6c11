"""The results table in LaTeX and Markdown: the same numbers, whatever the names hold."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.typeset import documents, md_escape, tex_escape
from slim_eval.results.variants import Variant, labelled

MakeCell = Callable[..., Variant]
NASTY = ("[x]_100%&more$#{}~^\\", "*star|pipe`tick`<b>", "模型-é-ü-ł--ß", "very-long-" * 30)
TEX = next((name for name in ("tectonic", "pdflatex", "lualatex", "xelatex") if shutil.which(name)), None)


@pytest.fixture
def variants(make_variant: MakeCell) -> list[Variant]:
    """An ordinary model at three precisions."""
    interval = {"tpot_s": (0.0038, 0.0042), "tokens_per_second": (499.99, 500.01)}
    return [
        make_variant(performance={"intervals": interval}, tasks={"mmlu": 0.5}),
        make_variant(precision="int8", performance={"output_tokens": 150.0}, energy={"valid": False}),
        make_variant(precision="int4", head={"kernels": "emulated"}, performance={"ttft_s": None}, energy=None),
    ]


@pytest.fixture
def study(variants: list[Variant], make_variant: MakeCell) -> Study:
    """The same, and models whose names a table must survive."""
    further = [make_variant(f"org/M{number}", tasks={"mmlu": {"accuracy": 0.25}}) for number in range(len(NASTY))]
    named = [replace(variant, name=name) for variant, name in zip(further, NASTY, strict=True)]
    return Study.of([*labelled(variants), *named], ("mmlu",))


def latex_table(study: Study) -> str:
    return documents(study)["results_table.tex"]


def markdown_table(study: Study) -> str:
    return documents(study)["results_table.md"]


def tabular(text: str) -> list[list[str]]:
    """The rows of the LaTeX table, variant by variant."""
    body = text.split("\\toprule\n")[1].split("\\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.strip().endswith("\\\\")]
    return [[variant.strip() for variant in re.split(r"(?<!\\)&", line.strip().removesuffix("\\\\"))] for line in lines]


def test_the_latex_table_has_units_intervals_and_dashes(variants: list[Variant]) -> None:
    text = latex_table(Study.of(variants[:3], ("mmlu",)))
    header, units, fp16, int8, int4 = tabular(text)
    assert header[:4] == ["Model", "Precision", "TTFT", "TPOT"]
    assert units[2:5] == ["(ms)", "(ms)", "(tokens/s)"]
    assert fp16[:5] == ["Tiny", "fp16", "20.0", "4.00 $\\pm$ 0.20", "500.0 $\\pm$ \\textless{}0.1"]
    assert fp16[-2:] == ["50.0 $\\pm$ 2.0", "1"]  # 1.96 standard errors of 0.01; the setting
    assert (int8[0], int8[-2]) == ("", "--")
    assert int4[2] == "--"
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert text.count(rule) == 1
    assert text.count("\\begin{") == text.count("\\end{") == 2
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    assert {len(row) for row in tabular(text)} == {len(columns[1])}


def test_doubts_are_marked_and_explained(variants: list[Variant]) -> None:
    made = documents(Study.of(variants[:3], ()))
    _, _, _, int8, int4 = tabular(made["results_table.tex"])
    assert int8[5] == "200.0$^{\\dag}$"
    assert int8[8].endswith("$^{\\S}$")
    assert int4[3] == "4.00$^{\\P}$"
    for note in ("compares different work", "emulated in 16-bit", "marked invalid"):
        assert note in made["results_table.tex"]
        assert note in made["results_table.md"]
    plain = documents(Study.of(variants[:1], ()))
    assert "emulated" not in plain["results_table.tex"]


def test_settings_that_differ_get_a_column_and_a_note(make_variant: MakeCell) -> None:
    variants = [make_variant("org/A"), make_variant("org/B", head={"engine": "transformers"})]
    text = markdown_table(Study.of(variants, ()))
    assert [line.split("|")[-2].strip() for line in text.splitlines()[:4]] == ["Setting", "--:", "1", "2"]
    assert "- 2: transformers, Test GPU, Test CPU." in text
    assert "Setting" not in markdown_table(Study.of(variants[:1], ()))


def test_markdown_has_as_many_variants_everywhere(study: Study) -> None:
    text = markdown_table(study)
    lines = text.split("\n\n")[0].splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(re.findall(r"\|", lines[0]))}
    assert "\\|pipe\\`tick\\`&lt;b>" in text
    assert "模型-é-ü-ł--ß" in text
    assert "500.0 ± &lt;0.1" in text


def test_names_are_escaped_in_latex(study: Study) -> None:
    text = latex_table(study)
    assert "\\_100\\%\\&more\\$\\#\\{\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{}" in text
    assert "[U+6A21][U+578B]-é-ü-ł-{}-ß" in text
    assert "{}[x]" in text
    assert "{}*star" in text
    assert not re.search(r"\\\\\s*\n\s*[\[*]", text)


@given(st.text())
def test_an_escaped_text_holds_no_active_character(text: str) -> None:
    made = tex_escape(text)
    left = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\$\\pm\$|-\{\}", "", made)
    assert not re.search(r"[&%$#_{}~^\\]", left)
    assert all(character.isprintable() for character in left)
    assert "\n" not in md_escape(text)
    assert not re.search(r"(?<!\\)(\\\\)*\|", md_escape(text))


def test_extreme_values_keep_the_table(make_variant: MakeCell) -> None:
    tiny, huge = {"tpot_s": 1e-12, "tokens_per_second": 1e15}, {"tpot_s": 1e6, "tokens_per_second": 0.0}
    first, second = tabular(
        latex_table(Study.of([make_variant("a/A", performance=tiny), make_variant("b/B", performance=huge)], ()))
    )[2:]
    assert first[3:5] == ["1.0e-09", "1.0e+15"]
    assert second[3:5] == ["1.0e+09", "0.0"]


def test_a_loss_is_no_percentage(make_variant: MakeCell) -> None:
    task = {"accuracy": 12.3456, "metric": "word_perplexity,none", "stderr": None}
    text = markdown_table(Study.of([make_variant(tasks={"wikitext": task})], ("wikitext",)))
    assert "wikitext (word perplexity)" in text
    assert "12.346" in text


def test_energy_of_the_run_stands_in_for_energy_per_token(make_variant: MakeCell) -> None:
    variant = make_variant(energy={"joules_per_output_token": None, "energy_kwh": 0.021})
    header, units, row = tabular(latex_table(Study.of([variant], ())))
    assert (header[-1], units[-1], row[-1]) == ("Energy of the run", "(kWh)", "0.021")


@pytest.mark.skipif(TEX is None, reason="no TeX on this machine")
def test_the_table_compiles_under_booktabs(study: Study, tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(latex_table(study), encoding="utf-8")
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table}\\end{document}\n"
    (tmp_path / "main.tex").write_text(document, encoding="utf-8")
    options = [] if TEX == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([str(TEX), *options, "main.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 1000
