"""Names, atomic files, nearest names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slim_eval.utils import atomic_path, did_you_mean, full_name, short_name, slug, write_text


@pytest.mark.parametrize(
    ("model", "short", "full"),
    [
        ("meta-llama/Llama-3.2-3B", "Llama-3.2-3B", "meta-llama--Llama-3.2-3B"),
        ("/models/my model/", "my_model", "my_model-985ca6fb"),
        ("./Tiny", "Tiny", "Tiny-4d660f09"),
        ("demo", "demo", "demo"),
        ("a/..", "_", "a--"),
        ("a/名前", "名前", "a--名前"),
    ],
)
def test_names_are_single_folders(model: str, short: str, full: str) -> None:
    assert short_name(model) == short
    assert full_name(model) == full


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "a\0b", "CON:"])
def test_a_slug_never_leaves_its_folder(name: str, tmp_path: Path) -> None:
    path = (tmp_path / slug(name)).resolve()
    assert path.parent == tmp_path.resolve()


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")

    def stop_half_way() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_files_get_the_users_permissions(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_text(tmp_path / "f", "x")
    finally:
        os.umask(previous)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_nearest_names() -> None:
    assert did_you_mean("helaswag", ["hellaswag", "mmlu"]) == "did you mean hellaswag?"
    assert did_you_mean("zzz", ["hellaswag", "mmlu"]) == "known: hellaswag, mmlu"
    assert did_you_mean("zzz", map(str, range(100))) == ""
