"""The output of a run: plain lines, live bars, JSON, the closing table."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slim_eval.config import DisplayConfig
from slim_eval.execution import messages
from slim_eval.execution.progress import (
    Display,
    Failure,
    JsonDisplay,
    LiveDisplay,
    ManyDisplay,
    PlainDisplay,
    RunReport,
    Tally,
)
from slim_eval.results.records import PerformanceRecord
from slim_eval.results.variants import Variant

EVENTS: list[Any] = [
    messages.Started(stage="engine"),
    messages.Note(text="vLLM runs [int8] here"),
    messages.Finished(stage="engine"),
    messages.Started(stage="performance"),
    messages.Advanced(stage="performance", done=8, total=16, unit="requests"),
    messages.Finished(stage="performance", path=Path("performance.json")),
    messages.Started(stage="mmlu"),
    messages.Failed(stage="mmlu", cause="no data [here]", remedy="get some"),
]
VARIANT = Variant.of(
    Path("outputs/demo/demo_int8"), [PerformanceRecord(model="demo", precision="int8", tokens_per_second=1234.5)]
)
FAILURE = Failure("demo int8", "mmlu", "no data [here]", "get some", Path("run.log"))


def shown(kind: type[Any], *, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=160, color_system=None)
    display: Display = kind(console)
    with display:
        display.begin("demo int8", 1, 2, ["engine", "performance", "mmlu"])
        for event in EVENTS:
            display.handle("demo int8", event)
            if isinstance(display, LiveDisplay):
                display._progress.refresh()  # as its own clock does a few times a second
        display.end("demo int8")
        display.close(RunReport(Path("outputs"), (VARIANT,), failures=[FAILURE]))
    return output.getvalue()


@pytest.mark.parametrize(("kind", "terminal"), [(PlainDisplay, False), (LiveDisplay, True)])
def test_every_event_is_told(kind: type[Any], terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(kind, terminal=terminal)
    for part in ("demo int8", "engine", "performance", "vLLM runs [int8] here", "mmlu", "no data [here]"):
        assert part in text
    closing = capsys.readouterr()
    assert "1,234.5" in closing.out
    assert "outputs/demo/demo_int8" in closing.out
    assert "get some" in closing.err


def test_plain_lines_hold_no_control_characters() -> None:
    assert "\x1b" not in shown(PlainDisplay, terminal=False)


def test_a_stage_shows_how_far_it_is() -> None:
    assert "8/16 requests" in shown(LiveDisplay, terminal=True)


def test_a_stage_that_did_not_run_is_said_to_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    output = io.StringIO()
    display = PlainDisplay(Console(file=output))
    display.begin("demo int8", 1, 1, ["quantize"])
    display.handle("demo int8", messages.Finished(stage="quantize"))
    assert "already there" in output.getvalue()


def test_what_an_earlier_variant_took_is_not_said_of_a_later_one() -> None:
    output = io.StringIO()
    display = PlainDisplay(Console(file=output))
    display.begin("demo int8", 1, 2, ["quantize"])
    display.handle("demo int8", messages.Started(stage="quantize"))
    display.handle("demo int8", messages.Finished(stage="quantize"))
    display.begin("demo int4", 2, 2, ["quantize"])
    display.handle("demo int4", messages.Finished(stage="quantize"))
    assert output.getvalue().splitlines()[-1].endswith("demo int4: quantize already there")


def in_json(**options: bool) -> list[dict[str, Any]]:
    output = io.StringIO()
    with JsonDisplay(output, DisplayConfig(**options)) as display:
        display.begin("demo int8", 1, 2, ["engine", "performance", "mmlu"])
        for event in EVENTS:
            display.handle("demo int8", event)
        display.chatter("demo int8", "loading shards")
        display.end("demo int8")
        display.close(RunReport(Path("outputs"), (VARIANT,), failures=[FAILURE]))
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_programs_get_an_object_a_line_with_time_and_variant() -> None:
    lines = in_json()
    assert [line["event"] for line in lines] == [
        "cell", "started", "note", "finished", "started", "finished", "started", "failed", "closed"
    ]  # fmt: skip
    assert all(line["time"].startswith("20") for line in lines)
    assert {line.get("cell") for line in lines} == {"demo int8", None}
    assert lines[-2]["cause"] == "no data [here]"
    assert lines[-1]["results"] == ["outputs/demo/demo_int8"]
    assert lines[-1]["failures"][0]["remedy"] == "get some"


def test_verbose_tells_all_and_quiet_only_what_failed() -> None:
    assert {"advanced", "log"} <= {line["event"] for line in in_json(verbose=True)}
    assert [line["event"] for line in in_json(quiet=True)] == ["cell", "failed", "closed"]
    output = io.StringIO()
    display = PlainDisplay(Console(file=output, width=160), DisplayConfig(quiet=True))
    display.begin("demo int8", 1, 1, ["mmlu"])
    for event in EVENTS:
        display.handle("demo int8", event)
    assert output.getvalue() == "[1/1] demo int8: mmlu FAILED: no data [here]\n"
    loud = io.StringIO()
    PlainDisplay(Console(file=loud, width=160), DisplayConfig(verbose=True)).chatter("demo int8", "loading [shards]")
    assert loud.getvalue() == "loading [shards]\n"


def test_two_variants_at_the_same_time_are_kept_apart() -> None:
    plain, text, stream = io.StringIO(), io.StringIO(), io.StringIO()
    live = LiveDisplay(Console(file=text, force_terminal=True, width=160, color_system=None))
    displays = [PlainDisplay(Console(file=plain, width=160)), live, JsonDisplay(stream, DisplayConfig(verbose=True))]
    for display in displays:
        with display:
            for number, name in enumerate(("demo fp16", "demo int8"), start=1):
                display.begin(name, number, 2, ["performance"])
                display.handle(name, messages.Started(stage="performance"))
            display.handle("demo fp16", messages.Advanced(stage="performance", done=3, total=16, unit="requests"))
            display.handle("demo int8", messages.Advanced(stage="performance", done=5, total=32, unit="requests"))
            live._progress.refresh()
            display.handle("demo int8", messages.Finished(stage="performance"))
            display.end("demo int8")
            live._progress.refresh()
            display.handle("demo fp16", messages.Failed(stage="performance", cause="no", remedy=""))
            display.end("demo fp16")
    assert [line.rsplit(" ", 1)[0] for line in plain.getvalue().splitlines()[-2:]] == [
        "[2/2] demo int8: performance done in 0.0", "[1/2] demo fp16: performance FAILED:"
    ]  # fmt: skip
    assert {"3/16 requests", "5/32 requests", "1/2 variants"} <= set(re.findall(r"\d+/\d+ \w+", text.getvalue()))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["cell"], line["event"]) for line in lines[-4:]] == [
        ("demo fp16", "advanced"), ("demo int8", "advanced"), ("demo int8", "finished"), ("demo fp16", "failed")
    ]  # fmt: skip


def test_many_variants_have_a_row_each_and_one_bar() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, height=9, color_system=None)
    display = ManyDisplay(console)
    names = [f"org/a-model-with-a-rather-long-name-{number} int8" for number in range(8)]
    with display:
        for number, name in enumerate(names, start=1):
            display.begin(name, number, 30, ["engine", "mmlu"])
            display.handle(name, messages.Started(stage="engine"))
            display.handle(name, messages.Note(text="the same for all"))
        display.handle(names[0], messages.Advanced(stage="mmlu", done=340, total=1400, unit="requests"))
        display.handle(names[1], messages.Advanced(stage="energy", done=12, total=None, unit="s of waiting"))
        display.handle(names[7], messages.Failed(stage="engine", cause="no [memory]", remedy=""))
        display.end(names[7])
        live = Console(file=io.StringIO(), width=80, color_system=None)
        live.print(display._render())
        shown = live.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(shown) == 7  # 5 rows fit into 9 lines, with the number of others and the bar
    assert all(len(line) <= 80 for line in shown)
    assert "mmlu" in shown[0]
    assert "340/1400 requests" in shown[0]
    assert "12 s of waiting" in shown[1]
    assert "… and 2 more" in shown[5]
    assert "1 of 30 variants done, 7 running, 1 stage failed" in shown[6]
    assert output.getvalue().count("the same for all") == 1
    assert "no [memory]" in output.getvalue()


def test_without_a_terminal_many_variants_share_one_line_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr("slim_eval.execution.progress.time.monotonic", lambda: next(clock))
    output = io.StringIO()
    display = PlainDisplay(Console(file=output, width=200), tally=Tally())
    for name in ("a", "b"):
        display.begin(name, 1, 5, ["mmlu"])
    for done in range(50):
        for name in ("a", "b"):
            display.handle(name, messages.Advanced(stage="mmlu", done=done, total=50, unit="requests"))
    display.end("a")
    lines = output.getvalue().splitlines()
    assert not [line for line in lines if "requests" in line]
    assert 10 < lines.count("0 of 5 variants done, 2 running") < 70
    assert lines[-1] == "1 of 5 variants done, 1 running"


@pytest.mark.parametrize("width", [40, 80])
def test_variants_of_a_model_with_a_long_name_differ_in_their_rows(width: int) -> None:
    display = ManyDisplay(Console(file=io.StringIO(), force_terminal=True, width=width, height=9, color_system=None))
    with display:
        for number, scheme in enumerate(("int8", "int4+kv8", "fp16 run 12"), start=1):
            name = f"acme/a-model-with-a-really-long-name-70B-instruct {scheme}"
            display.begin(name, number, 3, ["mmlu"])
            display.handle(name, messages.Started(stage="demo_hellaswag"))
            display.handle(name, messages.Advanced(stage="demo_hellaswag", done=12, total=None, unit="s of waiting"))
        live = Console(file=io.StringIO(), width=width, color_system=None)
        live.print(display._render())
    shown = live.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in shown)
    for line, scheme in zip(shown, ("… int8 ", "… int4+kv8 ", "… fp16 run 12 "), strict=False):
        assert line.startswith("acme/a")
        assert scheme in line
        assert width < 80 or "demo_hellaswag    12 s of waiting" in line


@pytest.mark.parametrize("makes", [ManyDisplay, lambda console: PlainDisplay(console, tally=Tally())])
def test_a_stage_that_another_node_does_again_has_not_failed(makes: Callable[[Console], Display]) -> None:
    output = io.StringIO()
    display = makes(Console(file=output, force_terminal=True, width=80, color_system=None))
    with display:
        for number, name in enumerate(("a", "b"), start=1):
            display.begin(name, number, 2, ["engine", "mmlu"])
            display.handle(name, messages.Failed(stage="mmlu", cause="the node died", remedy=""))
        display.handle("a", messages.Started(stage="mmlu"))
        display.handle("a", messages.Finished(stage="mmlu"))
        display.end("a")
        display.end("b")
        shown = str(display._tally)  # type: ignore[attr-defined]
    assert shown == "2 of 2 variants done, 0 running, 1 stage failed"
    if isinstance(display, ManyDisplay):
        assert "✓ a" in output.getvalue()
        assert "✗ b" in output.getvalue()


def test_programs_are_told_how_far_many_variants_are() -> None:
    output = io.StringIO()
    display = JsonDisplay(output, DisplayConfig(), Tally())
    display.begin("a", 1, 2, ["mmlu"])
    display.handle("a", messages.Failed(stage="mmlu", cause="no", remedy=""))
    display.end("a")
    last = json.loads(output.getvalue().splitlines()[-1])
    assert {**last, "time": ""} == {
        "time": "", "event": "progress", "done": 1, "running": 0, "total": 2, "failed": 1
    }  # fmt: skip
