"""Tables that break no word, at any width."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from slim_eval.utils.word_table import Column, WordTable, columns_of, wrap

LONG = WordTable(
    [
        Column("variant", ["Mistral-7B-Instruct-v0.3 int8", "gemma-3-4b-it fp16"], left=True, key=True),
        Column("verdict", ["not comparable", "baseline"], left=True),
        Column("throughput, tokens/s", ["1,425 [1,401, 1,444]", "966"]),
        Column("drop, pp", ["+7.2 [+4.0, +10.4]", "-"]),
        Column("energy, J/token", ["0.280", "1.200"]),
    ],
    "a title of several words",
    "a caption that is longer than the narrowest terminals are wide",
)


def printed(table: WordTable, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return stream.getvalue()


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\s│┃━─┏┓┗┛┡┩┳┻╇┴┬┼├┤└┘╞╡╪]+", text))


@pytest.mark.parametrize("width", [24, 30, 40, 60, 80, 120, 200])
def test_no_word_is_broken_and_none_is_lost(width: int) -> None:
    text = printed(LONG, width)
    wide = words(printed(LONG, 400)) | {f"{column.header.split()[-1]}:" for column in LONG.columns} | {"drop,", "pp:"}
    assert words(text) <= wide
    assert words("1,425 1,444] not comparable Mistral-7B-Instruct-v0.3 0.280 narrowest") <= words(text)
    if width >= 40:
        assert max(map(len, text.splitlines())) <= width


def test_a_wide_terminal_has_one_line_per_row() -> None:
    lines = printed(LONG, 200).splitlines()
    assert len(lines) == 1 + 3 + 2 + 1 + 1
    assert sum("[1,401, 1,444]" in line and "[+4.0, +10.4]" in line for line in lines) == 1


def test_a_narrow_one_repeats_the_key() -> None:
    text = printed(LONG, 60)
    assert text.count("┏") > 1
    assert text.count("gemma-3-4b-it") == text.count("┏")


def test_the_narrowest_has_a_list_per_row() -> None:
    text = printed(LONG, 24)
    assert "┏" not in text
    assert "drop, pp:" in " ".join(text.split())


@given(st.lists(st.text("abc 12%-", min_size=1, max_size=30), min_size=1, max_size=4), st.integers(1, 40))
def test_wrapping_keeps_every_word(texts: list[str], width: int) -> None:
    text = " ".join(texts)
    assert wrap(text, width).split() == text.split()


def test_a_number_keeps_its_unit() -> None:
    assert wrap("it saves 38 % of 12 GiB", 9).split("\n") == ["it saves", "38 % of", "12 GiB"]


def test_columns_from_rows() -> None:
    name, value = columns_of(("name", "value"), [("a", "1"), ("b", "2")], ["name"])
    assert (name.key, name.left, name.cells) == (True, True, ["a", "b"])
    assert (value.key, value.left, value.cells) == (False, False, ["1", "2"])
    assert printed(WordTable(columns_of(("name", "value"), [])), 40)
