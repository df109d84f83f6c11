"""What benchmarks share: the prompts, and what a benchmark is by default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim_eval.benchmarks import base
from slim_eval.benchmarks.base import BENCHMARKS, Benchmark, BenchmarkContext
from slim_eval.config import PerformanceConfig, RunConfig
from slim_eval.engines.engine import Prompt, ordinary_tokens
from slim_eval.errors import BenchmarkError
from slim_eval.results.records import RECORD_CLASSES, Measurement, PerformanceRecord
from tests.standins.engine import PlannedEngine


class Vocabulary(PlannedEngine):
    """An engine with ordinary tokens of its own."""

    def __init__(self, tokens: Sequence[int]) -> None:
        super().__init__()
        self._tokens = tokens

    def ordinary_tokens(self) -> Sequence[int]:
        return self._tokens


def synthetic(length: int, iteration: int = 0, batch: int = 4, seed: int = 0) -> list[Prompt]:
    return base.prompts(PlannedEngine(), PerformanceConfig(input_len=length), iteration, batch, seed)


def test_a_text_is_repeated() -> None:
    config = PerformanceConfig(prompt="three short words")
    assert base.prompts(PlannedEngine(), config, 7, 3) == ["three short words"] * 3


@given(length=st.integers(1, 64), iteration=st.integers(0, 10**6), seed=st.integers(0, 2**31 - 1))
def test_synthetic_prompts_have_their_length_and_only_ordinary_tokens(length: int, iteration: int, seed: int) -> None:
    ordinary = set(PlannedEngine().ordinary_tokens())
    for prompt in synthetic(length, iteration, seed=seed):
        assert isinstance(prompt, tuple)
        assert len(prompt) == length
        assert set(prompt) <= ordinary


@pytest.mark.parametrize(("length", "iterations"), [(1, 25), (2, 500), (3, 2000), (32, 200)])
def test_no_two_prompts_of_a_run_are_equal(length: int, iterations: int) -> None:
    found = [prompt for iteration in range(iterations) for prompt in synthetic(length, iteration)]
    assert len(set(found)) == len(found) == 4 * iterations


def test_neighbours_share_no_beginning() -> None:
    found = [prompt for iteration in range(25) for prompt in synthetic(16, iteration)]
    assert len({prompt[0] for prompt in found}) == 100


def test_the_same_place_in_a_run_has_the_same_prompt_every_time() -> None:
    assert synthetic(32, iteration=3, seed=5) == synthetic(32, iteration=3, seed=5)
    assert not set(synthetic(32, iteration=3, seed=5)) & set(synthetic(32, iteration=3, seed=6))
    assert not set(synthetic(32, iteration=3)) & set(synthetic(32, iteration=4))


def test_the_numbers_are_the_same_on_every_machine() -> None:
    """Written down once: results of two machines are of the same prompts."""
    assert synthetic(6, iteration=1, batch=2) == [(5, 3, 3, 52, 28, 26), (6, 3, 3, 61, 101, 56)]


def test_tokens_are_spread_over_the_whole_vocabulary() -> None:
    tokens = [token for prompt in synthetic(5000) for token in prompt[3:]]
    assert set(tokens) == set(PlannedEngine().ordinary_tokens())
    assert max(tokens.count(token) for token in set(tokens)) < 2 * len(tokens) / 100


def test_one_token_more_than_there_are_starts_again() -> None:
    engine = Vocabulary([7, 9])
    config = PerformanceConfig(input_len=1)
    assert base.prompts(engine, config, 0, 3) == [(7,), (9,), (7,)]


def test_a_tokenizer_without_ordinary_tokens_is_refused() -> None:
    with pytest.raises(BenchmarkError) as refused:
        base.prompts(Vocabulary([]), PerformanceConfig(input_len=4), 0, 1)
    assert "--prompt" in refused.value.remedy


class Tokenizer:
    """What `ordinary_tokens` asks of a tokenizer."""

    all_special_ids = (0, 1)

    def get_vocab(self) -> dict[str, int]:
        return {"b": 3, "<s>": 0, "</s>": 1, "a": 2, "<|user|>": 4, "c": 5, "beyond": 6, "same": 5}

    def get_added_vocab(self) -> dict[str, int]:
        return {"<s>": 0, "<|user|>": 4}


def test_ordinary_tokens_are_neither_special_nor_added_nor_beyond_the_embeddings() -> None:
    assert ordinary_tokens(Tokenizer(), 6) == (2, 3, 5)


class Toy(Benchmark[PerformanceConfig, PerformanceRecord]):
    """A benchmark that takes what it does not override."""

    name = "toy"
    options = PerformanceConfig
    record = PerformanceRecord

    def run(self, context: BenchmarkContext[PerformanceConfig]) -> Measurement:
        raise NotImplementedError


@pytest.fixture
def toy() -> Iterator[Toy]:
    """The toy, registered."""
    yield BENCHMARKS.register(Toy())  # type: ignore[misc]
    BENCHMARKS.unregister("toy")
    assert "toy" not in RECORD_CLASSES


def test_a_registered_benchmark_is_measured_last_and_its_records_are_known(toy: Toy) -> None:
    config = RunConfig(models="demo", tasks="toy accuracy energy", accuracy={"tasks": "mmlu"})
    assert list(base.stages_of(config)) == ["energy", "mmlu", "toy"]
    assert RECORD_CLASSES["toy"] is PerformanceRecord


def test_by_default_every_option_the_seed_and_the_device_are_settings(toy: Toy) -> None:
    config = RunConfig(models="demo", tasks="toy", seed=7, benchmark_options=["toy.num_runs=3"])
    found = toy.settings(config, "toy", "A100")
    assert found["device"] == "A100"
    assert (found["toy.seed"], found["toy.num_runs"], found["toy.batch_size"]) == (7, 3, 8)


def test_by_default_a_record_with_a_number_is_complete(toy: Toy) -> None:
    config = RunConfig(models="demo")
    head = {"model": "demo", "precision": "fp16", "num_parameters": 5}
    assert toy.flaw(PerformanceRecord(**head), config) == base.NO_NUMBERS
    assert toy.flaw(PerformanceRecord(**head, tpot_s=0.1), config) == ""


@pytest.mark.parametrize("name", ["a/b", "../up", "a.error", "", "paired"])
def test_a_name_that_cannot_name_a_file_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "name", name)
    with pytest.raises(ValueError, match="cannot name a file"):
        BENCHMARKS.register(Toy())
    assert "performance" in BENCHMARKS
    assert name not in BENCHMARKS


def test_the_host_is_watched_unless_others_started_the_server() -> None:
    def window(is_ours: bool | None) -> object:
        engine = PlannedEngine()
        if is_ours is not None:
            engine.is_ours = is_ours  # type: ignore[attr-defined]
        return BenchmarkContext(engine, PerformanceConfig(), RunConfig(models="demo"), (), "performance").host_window()

    assert window(None) is not None, "an engine in this process"
    assert window(True) is not None
    assert window(False) is None, "the server's work would count as that of other processes"
