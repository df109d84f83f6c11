"""The commands in README.md and docs/, as a reader would run them.

A block marked ``console`` shows commands (``$ …``) and what they print: ``…`` alone on a line stands for lines that are
left out, within a line for text that depends on the machine. A block marked ``bash`` shows commands only.

``python -m tests.documentation`` writes what the commands print now into the pages.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from slim_eval.cli import app
from tests.standins import preloaded

ROOT = Path(__file__).parents[1]
#: A finished ``slim-eval demo``, whose results the pages show.
DEMO = ROOT / "tests" / "data" / "demo"
#: Terminal width at which the pages show output.
WIDTH = 80
_LEFT_OUT = "…"
_ENVIRONMENT = {
    "COLUMNS": str(WIDTH), "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
}  # fmt: skip
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```\s*$", re.M | re.S)
_OPERATORS = frozenset({"&&", "||", "|", ";", ">", ">>", "2>", "<"})
_MEASURING = frozenset({"run", "noise", "demo"})
_WRITTEN = ("output", "junit", "quantized_models")  # starts of the names of options whose paths need not exist


def pages() -> list[Path]:
    """README.md and every page of the documentation except decisions, which are history."""
    return [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "decisions")]


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: The word after the fence.
        body: Its text, without the indentation of the fence.
        start: Offset of the body in the page.
        end: Offset of its end.
        line: Line number of the fence.
    """

    language: str
    body: str
    start: int
    end: int
    line: int


def blocks(text: str) -> Iterator[Block]:
    """Fenced blocks of a page."""
    for match in _FENCE.finditer(text):
        body = re.sub(rf"(?m)^{match['indent']}", "", match["body"])
        line = text.count("\n", 0, match.start()) + 1
        yield Block(match["language"], body, match.start("body"), match.end("body"), line)


@dataclasses.dataclass(frozen=True)
class Example:
    """A command of slim-eval in a page.

    Attributes:
        page: The page.
        line: Line number of its block.
        words: Words after ``slim-eval``.
        shown: Lines that the page shows as its output; None if it shows none.
        status: Exit status that the page shows with ``echo $?``; 0 if it shows none.
    """

    page: Path
    line: int
    words: tuple[str, ...]
    shown: tuple[str, ...] | None = None
    status: int = 0

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}: slim-eval {shlex.join(self.words)}"


def examples(page: Path) -> Iterator[Example]:
    """Commands of slim-eval in the blocks of a page."""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "console":
            yield from _console(page, block)
        elif block.language in ("bash", "sh", "shell"):
            for line in block.body.replace("\\\n", " ").splitlines():
                yield from (Example(page, block.line, words) for words in _commands(line))


def _console(page: Path, block: Block) -> Iterator[Example]:
    parts = re.split(r"(?m)^\$ ", block.body.replace("\\\n", " "))[1:]
    for part, after in zip(parts, [*parts[1:], ""], strict=True):
        command, *shown = part.rstrip("\n").split("\n")
        status = int(after.split("\n")[1]) if after.startswith("echo $?") else 0
        for words in _commands(command):
            yield Example(page, block.line, words, tuple(shown), status)


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    """Words after ``slim-eval``, of each command of a shell line."""
    command: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word not in _OPERATORS:
            command.append(word)
            continue
        while command and re.fullmatch(r"\w+=.*", command[0]):  # variables set for this command
            del command[0]
        if command[:1] == ["slim-eval"]:
            yield tuple(command[1:])
        command = []


def parsed(words: tuple[str, ...]) -> dict[str, Any]:
    """Values of a command's options; raises what the command line raises if one is unknown or missing."""
    group: Any = typer.main.get_command(app)
    if words[0].startswith("-"):
        with group.make_context("slim-eval", list(words)) as context:
            return dict(context.params)
    if words[0] not in group.commands:
        raise ValueError(f"No such command: {words[0]}")
    with group.commands[words[0]].make_context(words[0], list(words[1:])) as context:
        return dict(context.params)


def reason_not_to_run(words: tuple[str, ...], folder: Path) -> str | None:
    """Why a command is only parsed; None if it can run in the folder of `example_folder`."""
    if _LEFT_OUT in "".join(words):
        return "it is abbreviated"
    values = parsed(words)
    if words[0] in _MEASURING and "--dry-run" not in words:
        return "it measures models"
    named = [str(model) for name in ("models", "model") for model in values.get(name) or ()]
    if missing := [model for model in " ".join(named).split() if model != "demo" and not (folder / model).exists()]:
        return f"it needs a model: {missing[0]}"
    if words[0] == "setup":
        return "it installs packages"
    if {"--load", "--max-goodput"}.intersection(words):
        return "it needs results of a server under load"
    if words[0] in ("import", "export"):
        return "it reads files of other tools, or needs their packages"
    for name, value in values.items():
        for path in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(path, Path) and not name.startswith(_WRITTEN) and not (folder / path).exists():
                return f"it reads {path}, a reader's own"
    return "it needs a token" if "--push" in words else None


def example_folder(folder: Path) -> Path:
    """Fill a folder with what the pages' commands read: a checkout's published results, and those of the demo."""
    shutil.copytree(ROOT / "outputs" / "published-a100", folder / "outputs" / "published-a100")
    shutil.copytree(DEMO, folder / "outputs" / "demo-run")
    return folder


def output(words: tuple[str, ...], folder: Path) -> tuple[int, str]:
    """Exit status of a command in a folder, and what it prints; `analyze` draws no figures, to save a minute."""
    if words[0] == "analyze" and "--no-plots" not in words:
        words = (*words, "--no-plots")
    environment = {**preloaded.inherited(), **_ENVIRONMENT}
    server = preloaded.find(environment, models=False)
    if server is None:  # other tests of this process have set variables of their own
        command = [sys.executable, "-m", "slim_eval", *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    else:
        done = server.run(list(words), folder, environment)
    text = (done.stdout + done.stderr).replace(f"{folder}/", "")
    return done.returncode, "\n".join(line.rstrip() for line in text.rstrip("\n").split("\n"))


def shows(shown: tuple[str, ...], printed: str) -> bool:
    """Whether a page's lines are those that were printed, except what is left out."""
    if not shown:
        return not printed
    pattern = ""
    for line in shown:
        any_text = re.escape(line.rstrip()).replace(re.escape(_LEFT_OUT), ".*?")
        pattern += r"(?:.*\n)*?" if line.strip() == _LEFT_OUT else any_text + r"\n"
    return re.fullmatch(pattern, f"{printed}\n") is not None


def python_names(text: str) -> Iterator[tuple[int, str]]:
    """What the Python blocks of a page use of slim-eval, as dotted names, with the lines of the blocks."""
    for block in blocks(text):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.body)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slim_eval"):
                yield from ((block.line, f"{node.module}.{name.name}") for name in node.names)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "slim_eval":
                yield block.line, f"slim_eval.{node.attr}"


def _again(shown: tuple[str, ...], printed: str) -> list[str]:
    """As many of the printed lines as the page shows now, before and after what it leaves out."""
    lines = printed.split("\n")
    gaps = [number for number, line in enumerate(shown) if line.strip() == _LEFT_OUT]
    if not gaps:
        return lines
    tail = len(shown) - gaps[-1] - 1
    return [*lines[: gaps[0]], _LEFT_OUT, *lines[len(lines) - tail :]]


def _rewrite(page: Path, folder: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in reversed(list(blocks(text))):
        if block.language != "console":
            continue
        body = block.body
        for example in _console(page, block):
            if reason := reason_not_to_run(example.words, folder):
                print(f"{example}: not run: {reason}")  # noqa: T201
                continue
            status, printed = output(example.words, folder)
            if status != example.status:
                print(f"{example}: exit status {status}, the page shows {example.status}")  # noqa: T201
            if shows(example.shown or (), printed):
                continue
            if any(_LEFT_OUT in line and line.strip() != _LEFT_OUT for line in example.shown or ()):
                print(f"{example}: edit by hand, it leaves out parts of lines\n{printed}")  # noqa: T201
                continue
            old = "".join(f"\n{line}" for line in example.shown or ())
            new = "".join(f"\n{line}" for line in _again(example.shown or (), printed))
            command = next(line for line in body.split("\n") if line.startswith("$ ") and _is(line, example.words))
            body = body.replace(f"{command}{old}", f"{command}{new}", 1)
        text = text[: block.start] + body + text[block.end :]
    page.write_text(text, encoding="utf-8")


def _is(line: str, words: tuple[str, ...]) -> bool:
    return words in _commands(line.removeprefix("$ "))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        for each in pages():
            _rewrite(each, example_folder(Path(made, each.stem)))
    sys.exit(0)
