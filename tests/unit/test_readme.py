"""The README's option table is the command's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slim_eval.cli import _default, _flag, _leaves
from slim_eval.config import RunConfig

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("leaf", list(_leaves(RunConfig)), ids=lambda leaf: "-".join(leaf[0]))
def test_every_option_stands_in_the_readme(leaf: tuple[tuple[str, ...], object, str]) -> None:
    path, field, _ = leaf
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{_flag(path, field)}` |")]  # type: ignore[arg-type]
    assert field.description in row  # type: ignore[attr-defined]
    _, shown = _default(field)  # type: ignore[arg-type]
    if isinstance(shown, str):
        assert f"`{shown}`" in row


def test_nothing_is_left_to_fill_in_and_pictures_exist() -> None:
    assert "@@" not in README
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (Path(__file__).parents[2] / path).exists(), path


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/metrics.md", "constraints.txt"])
def test_files_it_names_exist(name: str) -> None:
    assert (Path(__file__).parents[2] / name).exists()
