"""Generated nonsense on the command line and in result files: one line of cause, one of remedy, never a traceback."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim_eval import cli
from slim_eval.analysis.compare.items import update_paired
from slim_eval.analysis.compare.repeats import noise_record
from slim_eval.results.store import write_noise
from tests.generated import examples
from tests.unit.variants import variant_maker

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
# What makes sure that nothing is started: these are always given, and none of them exists.
NOWHERE = {
    "run": ["--models", "./nowhere"], "noise": ["--models", "./nowhere"], "compare": ["nowhere/a", "nowhere/b"],
    "import": ["nowhere.json"], "analyze": ["--input-dir", "nowhere"], "recommend": ["--input-dir", "nowhere"],
    "doctor": ["--precision", "nowhere"], "export": ["nowhere"],
}  # fmt: skip
GIVEN = {word for words in NOWHERE.values() for word in words if word.startswith("-")}

# A file of such a name does not exist; none can lead out of the folder that the test works in.
texts = st.text(min_size=1, max_size=12).map(lambda text: "x" + text)
numbers = st.one_of(st.integers().map(str), st.floats().map(str))
values = st.one_of(
    texts,
    numbers,
    st.sampled_from(["", " ", "nan", "-1", "0", "1e999", "x=1", "x=", "=", "'", '"', "fp16", "fp16,", "\0"]),
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with some of its options, or of none at all, and values of any kind; what it needs is not there."""
    name = draw(st.sampled_from(sorted(NOWHERE)))
    flags = sorted({flag for option in COMMANDS[name].params for flag in option.opts if flag.startswith("-")} - GIVEN)
    unknown = texts.map(lambda text: f"--{text}")
    words = list(NOWHERE[name])
    for flag in draw(st.lists(st.one_of(st.sampled_from(flags), unknown), max_size=4)):
        words += [flag, *draw(st.lists(values, max_size=2))]
    return [name, *words]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


SHARED = settings(
    max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@SHARED
@given(words=command_lines())
def test_a_bad_command_line_is_refused(words: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(words)
    error = capsys.readouterr().err
    assert code in (1, 2), words
    lines = error.strip("\n").split("\n")
    assert lines[0].startswith("error: "), (words, error)
    assert len(lines) <= 2, (words, error)
    assert list(workplace.iterdir()) == [], words


@dataclass(frozen=True)
class Damage:
    """What is done to a file's bytes."""

    kind: str
    do: Callable[[bytes], bytes]

    def __repr__(self) -> str:
        return self.kind


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner), max_leaves=6
)


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Bytes that are lost or wrong, or a document that is whole and not what it should be."""
    kind = draw(st.sampled_from(["cut", "bytes", "value", "value", "value", "missing", "whole", "deep", "long"]))
    share, key, document = draw(st.floats(0, 1)), draw(st.integers(0, 200)), draw(documents)
    noise = draw(st.binary(min_size=1, max_size=8))

    def do(content: bytes) -> bytes:
        place = int(share * len(content))
        if kind == "cut":
            return content[:place]
        if kind == "bytes":
            return content[:place] + noise + content[place + len(noise) :]
        if kind == "deep":
            return b"[" * 100_000
        if kind == "long":
            return b'{"model": "' + b"x" * 2_000_000 + b'"}'
        if kind == "whole":
            return json.dumps(document).encode()
        return _changed(content, key, None if kind == "missing" else [document])

    return Damage(f"{kind} {share:.2f} {key} {document!r}", do)


def _changed(content: bytes, number: int, value: list[Any] | None) -> bytes:
    """A document with one of its values replaced, or left out; compressed lines in their first one."""
    packed = content[:2] == b"\x1f\x8b"
    text = gzip.decompress(content) if packed else content
    first, *rest = text.split(b"\n") if packed else [text]
    record = json.loads(first)
    places = [(record, key) for key in record]
    places += [(part, key) for part in record.values() if isinstance(part, dict) for key in part]
    part, key = places[number % len(places)]
    if value is None:
        del part[key]
    else:
        part[key] = value[0]
    done = b"\n".join([json.dumps(record).encode(), *rest])
    return gzip.compress(done) if packed else done


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants with what a run leaves: records, samples, `paired.json` and a noise floor."""
    folder = tmp_path_factory.mktemp("sound")
    make = variant_maker(folder)
    items = {
        precision: [
            {"task": "quiz", "doc_id": n, "item_hash": f"{n}", "target": "0", "acc": float((n + shift) % 4 > 0)}
            for n in range(40)
        ]
        for precision, shift in (("fp16", 0), ("int8", 1))
    }
    requests = [
        {"iteration": n // 8, "request": n % 8, "tpot_s": 0.004 + n / 1e5, "ttft_s": 0.02, "e2e_s": 0.5 + n / 1e4,
         "latency_s": 0.5 + n / 1e4, "prompt_tokens": 12, "output_tokens": 100}
        for n in range(64)
    ]  # fmt: skip
    variants = [
        make(precision=precision, tasks={"quiz": 0.75}, samples={"quiz": rows, "performance": requests})
        for precision, rows in items.items()
    ]
    home = variants[0].directory.parent
    assert update_paired(home, 1.0)
    write_noise(home, noise_record([variants[0], variants[0]]))
    return folder / "outputs"


@settings(SHARED, max_examples=examples(60))  # each analyses two variants
@given(data=st.data(), damage=damages())
@pytest.mark.large
def test_a_damaged_file_is_never_a_traceback(
    data: st.DataObject, damage: Damage, sound: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for left in workplace.iterdir():
        shutil.rmtree(left)
    shutil.copytree(sound, workplace / "outputs")
    files = sorted(path for path in (workplace / "outputs").rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    file.write_bytes(damage.do(file.read_bytes()))
    command = data.draw(
        st.sampled_from(
            [
                ["analyze", "--no-plots", "--accuracy-tasks", "quiz"],
                ["recommend", "--json"],
                ["compare", "outputs/Tiny/Tiny_fp16", "outputs/Tiny/Tiny_int8", "--json", "--fail-if", "quiz_drop>1pp"],
            ]
        )
    )
    code = cli.main(command)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if code in (0, 3, 4):
        done = (workplace / "analysis_results" / "results_table.csv").exists() or json.loads(said.out)
        assert done, (command, file, damage)
    else:
        assert code in (1, 2), (command, file, damage)
        assert said.err.startswith(("error: ", "warning: ")), said.err
