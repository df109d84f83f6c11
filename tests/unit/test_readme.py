"""The README's option table is the command's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from slim_eval.cli import _leaves, _option
from slim_eval.config import RunConfig, option_info

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("leaf", list(_leaves(RunConfig)), ids=lambda leaf: "-".join(leaf[0]))
def test_every_option_stands_in_the_readme(leaf: tuple[tuple[str, ...], FieldInfo, str]) -> None:
    (option,) = _option(*leaf).annotation.__metadata__
    flag = option_info(leaf[0][-1], leaf[1])["flag"]
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{flag}` |")]
    assert option.help in row
    if isinstance(option.show_default, str):
        assert f"`{option.show_default}`" in row


def test_nothing_is_left_to_fill_in_and_pictures_exist() -> None:
    assert "@@" not in README
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (Path(__file__).parents[2] / path).exists(), path


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/metrics.md", "constraints.txt"])
def test_files_it_names_exist(name: str) -> None:
    assert (Path(__file__).parents[2] / name).exists()
