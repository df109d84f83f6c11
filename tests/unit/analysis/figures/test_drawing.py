"""Work shared among processes, and files replaced or removed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from slim_eval.analysis.figures import drawing
from slim_eval.analysis.figures.drawing import map_in_processes, save
from slim_eval.errors import ResultFileError


@pytest.mark.parametrize("cores", [1, 3])
def test_results_come_in_order_whoever_works(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_cores", lambda: cores)
    offset = 100  # a closure: it reaches the children without being passed
    assert map_in_processes(lambda number: number + offset, 7) == [100, 101, 102, 103, 104, 105, 106]
    assert map_in_processes(lambda number: number, 0) == []


@pytest.mark.large
def test_with_several_cores_other_processes_do_the_work() -> None:
    # In a process of its own: threads that other tests left behind would keep this one from forking.
    script = """
import os
from slim_eval.analysis.figures import drawing
drawing._cores = lambda: 2
assert os.getpid() not in drawing.map_in_processes(lambda number: os.getpid(), 4)
drawing._cores = lambda: 1
assert set(drawing.map_in_processes(lambda number: os.getpid(), 4)) == {os.getpid()}
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_beside_another_thread_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_cores", lambda: 2)
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert set(map_in_processes(lambda number: os.getpid(), 4)) == {os.getpid()}
    finally:
        done.set()
        other.join()


def test_an_error_of_a_child_is_raised_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_cores", lambda: 2)

    def fail(number: int) -> None:
        raise ResultFileError(f"file {number} is damaged", "measure it again")

    with pytest.raises(ResultFileError, match="file 0 is damaged") as caught:
        map_in_processes(fail, 3)
    assert caught.value.remedy == "measure it again"


def test_a_figure_is_written_twice_and_its_files_go_with_it(tmp_path: Path) -> None:
    figure = Figure(figsize=(1, 1))
    assert [path.name for path in save(figure, tmp_path, "a")] == ["a.png", "a.pdf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png"]
    assert save(None, tmp_path, "a") == []
    assert list(tmp_path.iterdir()) == []
