"""The receipt of kernels: what a worker asks a loaded engine, what it compares, and what it refuses."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim_eval.analysis import receipts
from slim_eval.engines import agreement
from slim_eval.engines.agreement import REFERENCE_FILE, Reference, excerpts, receipt
from slim_eval.errors import EngineError
from tests.standins.engine import PlannedEngine

IDS = tuple(tuple(range(part, part + 100)) for part in (0, 100, 200, 300))


def noisy(values: Sequence[Sequence[float]], size: float, seed: int) -> list[list[float]]:
    draw = random.Random(seed)
    return [[value + draw.gauss(0, size) for value in part] for part in values]


def source() -> list[list[float]]:
    draw = random.Random(7)
    return [[-draw.expovariate(0.5) for _ in part[1:]] for part in IDS]


class Scoring(PlannedEngine):
    """Answers as planned for the tokens that it is asked about."""

    quantized_kernel = ("PlannedKernel",)

    def __init__(self, answers: Sequence[Sequence[float]], window: int = 4096) -> None:
        super().__init__()
        self.answers, self.max_model_len = answers, window
        self.asked: list[list[int]] = []

    def token_logprobs(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """The first values of each planned answer."""
        self.asked = [list(ids) for ids in token_ids]
        return [list(answer[: len(ids) - 1]) for answer, ids in zip(self.answers, token_ids, strict=True)]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a reference whose quantization costs 0.17 nats per token in distance."""
    made = Reference.of(IDS, source(), noisy(source(), 0.21, 1))
    assert made is not None
    made.write(tmp_path)
    return tmp_path


def ask(engine: PlannedEngine, folder: Path) -> agreement.Receipt:
    return receipt(engine, folder, trust_remote_code=False)


def test_rounding_is_within_and_errors_are_beyond(checkpoint: Path) -> None:
    for error, beyond in ((0.0, False), (0.25, True)):
        engine = Scoring(noisy(source(), math.hypot(0.21, error), 2))
        found = ask(engine, checkpoint).record
        assert engine.asked == [list(ids) for ids in IDS]
        assert receipts.is_beyond_rounding(found) is beyond
        assert receipts.in_words(found).endswith("beyond rounding" if beyond else "within rounding")
        assert "PlannedKernel" in receipts.in_words(found)
        assert found.agreement_tokens == 396
        assert found.agreement_reference == pytest.approx(0.168, abs=0.02)
        assert found.agreement_mean is not None
        assert 0.2 < found.agreement_mean < 0.4


def test_16_bit_differences_of_a_scheme_that_costs_nothing_are_rounding(tmp_path: Path) -> None:
    """The distance of a nearly lossless scheme is less than what engines differ by at 16 bit."""
    made = Reference.of(IDS, source(), noisy(source(), 0.01, 1))
    assert made is not None
    made.write(tmp_path)
    found = ask(Scoring(noisy(source(), 0.05, 2)), tmp_path).record
    assert found.agreement_excess_interval is not None
    assert found.agreement_excess_interval[0] > 0
    assert not receipts.is_beyond_rounding(found)
    assert receipts.is_beyond_rounding(found, rounding=0.001)  # if the engine is known to be that exact


def test_rows_contain_what_was_compared(checkpoint: Path) -> None:
    rows = ask(Scoring(source()), checkpoint).rows
    assert len(rows) == 396
    assert [row["token"] for row in rows[:2]] == [1, 2]
    assert rows[0]["served"] == rows[0]["source"] == pytest.approx(source()[0][0], abs=1e-5)
    assert rows[-1]["excerpt"] == 3


def test_a_smaller_window_compares_the_first_tokens(checkpoint: Path) -> None:
    engine = Scoring(source(), window=33)
    found = ask(engine, checkpoint)
    assert {len(ids) for ids in engine.asked} == {32}
    assert found.record.agreement_tokens == 4 * 31
    assert found.record.agreement_served == pytest.approx(0, abs=1e-4)
    assert ask(Scoring(source(), window=4), checkpoint).failure == "a context window of 4 tokens does not hold the text"


@pytest.mark.parametrize("seed", range(3))
def test_another_model_is_refused(checkpoint: Path, seed: int) -> None:
    draw = random.Random(seed)
    unrelated = [[-draw.expovariate(0.1) for _ in part[1:]] for part in IDS]
    with pytest.raises(EngineError, match="is not this checkpoint"):
        ask(Scoring(unrelated), checkpoint)
    with pytest.raises(EngineError, match="not finite"):
        ask(Scoring([[math.nan, *part[1:]] for part in source()]), checkpoint)


def test_a_flat_model_is_not_refused_for_rounding(tmp_path: Path) -> None:
    flat = noisy([[-6.0] * 99] * 4, 0.01, 0)
    made = Reference.of(IDS, flat, noisy(flat, 0.02, 1))
    assert made is not None
    made.write(tmp_path)
    assert ask(Scoring(noisy(flat, 0.03, 2)), tmp_path).record.agreement_mean is not None


def test_an_engine_without_log_probabilities_has_an_empty_receipt(checkpoint: Path) -> None:
    found = ask(PlannedEngine(), checkpoint)
    assert set(found.record.model_dump().values()) == {None}
    assert (found.rows, found.failure, receipts.in_words(found.record)) == ((), "", "")


def test_an_engine_that_fails_has_a_reason_and_no_receipt(checkpoint: Path) -> None:
    class Failing(Scoring):
        def token_logprobs(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
            raise EngineError("no log-probabilities of prompts")

    found = ask(Failing(source()), checkpoint)
    assert found.failure == "no log-probabilities of prompts"
    assert found.record.quantized_kernel == ("PlannedKernel",)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "{",
        lambda content: "[]",
        lambda content: json.dumps(content | {"emulated": content["emulated"][:-1]}),
        lambda content: json.dumps(content | {"source": [[None, *part[1:]] for part in content["source"]]}),
    ],
)
def test_a_damaged_reference_is_as_none(checkpoint: Path, damage: Callable[[dict[str, Any]], str]) -> None:
    file = checkpoint / REFERENCE_FILE
    assert Reference.read(checkpoint) is not None
    file.write_text(damage(json.loads(file.read_text())))
    assert Reference.read(checkpoint) is None


def test_infinite_log_probabilities_make_no_reference() -> None:
    broken = [[-math.inf, *part[1:]] for part in source()]
    assert Reference.of(IDS, broken, source()) is None
    assert Reference.of((), [], []) is None


@pytest.mark.parametrize(("bos", "window"), [(None, None), (1, None), (1, 64), (None, 64)])
def test_excerpts_fit_and_begin_as_texts_do(bos: int | None, window: int | None) -> None:
    class Words:
        bos_token_id = bos

        def __call__(self, text: str) -> Any:
            return {"input_ids": [*([] if bos is None else [bos]), *(2 + len(word) for word in text.split())]}

    parts = excerpts(Words(), window)
    assert max(map(len, parts)) == (window or 128)
    assert all((part[0] == bos) is (bos is not None) for part in parts)
    assert sum(len(part) - (bos is not None) for part in parts) <= len(agreement.TEXT.split())
    assert excerpts(Words(), 4) == []


def test_kernels_are_found_in_every_place_where_vllm_keeps_them() -> None:
    from slim_eval.engines.vllm import MemoryProbe

    def part(name: str, **attributes: Any) -> Any:
        made = type(name, (), {})()
        vars(made).update(attributes)
        return made

    modules = [
        part("Embedding", quant_method=part("UnquantizedEmbeddingMethod", kernel=part("NoKernel"))),
        part("Attention", quant_method=part("CompressedTensorsKVCacheMethod")),
        part("Linear", quant_method=part("LinearMethod"), scheme=part("W8A8", kernel=part("CutlassKernel"))),
        part("Linear", quant_method=part("Fp8LinearMethod", fp8_linear=part("Fp8LinearOp"))),
        part("Linear", quant_method=part("AwqMethod"), scheme=None),
        part("Experts", quant_method=part("MoE", moe_kernel=part("FusedMoEKernel",
             impl=part("Modular", fused_experts=part("TritonExperts"))))),
        part("Norm"),
    ]  # fmt: skip
    probe = MemoryProbe()
    probe.model_runner = SimpleNamespace(get_model=lambda: SimpleNamespace(modules=lambda: modules))
    assert probe.slim_eval_kernels() == ["AwqMethod", "CutlassKernel", "Fp8LinearOp", "TritonExperts"]
