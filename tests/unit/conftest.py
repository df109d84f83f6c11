"""What unit tests share: variants made from a few numbers, and the published results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slim_eval.results.variants import Variant
from tests.unit.analysis.planted_study import write_study
from tests.unit.variants import variant_maker


@pytest.fixture(scope="session", autouse=True)
def _files_are_not_flushed() -> Iterator[None]:
    """What a power failure would leave is not tested here, and on a slow disk flushing takes longer than the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def make_variant(tmp_path: Path) -> Callable[..., Variant]:
    """`variant_maker` in the test's own folder."""
    return variant_maker(tmp_path)


@pytest.fixture(scope="session")
def planted_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `write_study` for one model, written once: a test that changes it copies it first."""
    return write_study(variant_maker(tmp_path_factory.mktemp("planted")))


@pytest.fixture(scope="session")
def published() -> Path:
    """The 13 configurations that were published with SLiM-Eval 0.1.3; they are not part of this repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "published" / "outputs"
    folder = Path(os.environ.get("SLIM_EVAL_PUBLISHED", str(beside)))
    if not folder.is_dir():
        pytest.skip(f"the published results are not at {folder}; SLIM_EVAL_PUBLISHED can name their folder")
    return folder
