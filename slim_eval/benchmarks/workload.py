"""The requests of the serving benchmark: the same prompts, lengths and order for every variant of a model.

A request is a function of the seed, the level and its number in it. No two synthetic prompts of a sweep are equal, so
that a server's cache of prefixes does not help it, as long as the vocabulary allows that.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim_eval.benchmarks.base import synthetic_prompt
from slim_eval.config import RunConfig, length_range
from slim_eval.engines.engine import Prompt
from slim_eval.engines.streaming import CompletionRequest
from slim_eval.errors import BenchmarkError, UsageError
from slim_eval.utils import safe_json

INPUT_LEN = 512  # tokens of a synthetic prompt, if nothing else is asked for
_LEVEL_STRIDE = 1_000_003  # requests of one level, at most: their numbers distinguish prompts
#: Short words of most vocabularies, for servers whose tokenizer is not known.
_WORDS = (
    "time year people way day man thing woman life child world school state family student group country "
    "problem hand part place case week company system program question work government number night point "
    "home water room mother area money story fact month lot right study book eye job word business issue "
    "side kind head house service friend father power hour game line end member law car city name "
    "president team minute idea kid body back parent face"
)


@dataclass(frozen=True)
class Workload:
    """What requests consist of."""

    seed: int
    input_range: tuple[int, int]  # tokens per synthetic prompt
    output_range: tuple[int, int]
    vocabulary: Sequence[int] = ()  # empty: prompts are texts
    words_per_token: float = 1.0  # of such texts, on this server
    texts: tuple[str, ...] = ()  # prompts of a file, used one after the other
    file: str | None = None  # that file, by `file_label`
    ignore_eos: bool = True

    def request(self, level: int, number: int) -> CompletionRequest:
        """A request of a level, which is a number too: its place in the sweep."""
        draw = random.Random(f"{self.seed} {level} {number}")
        input_len, output_len = draw.randint(*self.input_range), draw.randint(*self.output_range)
        prompt: Prompt
        if self.texts:
            prompt = self.texts[(level * _LEVEL_STRIDE + number) % len(self.texts)]
        elif self.vocabulary:
            prompt = synthetic_prompt(self.vocabulary, input_len, level * _LEVEL_STRIDE + number, draw)
        else:
            prompt = " ".join(draw.choices(_WORDS.split(), k=max(1, round(input_len * self.words_per_token))))
        return CompletionRequest(prompt, output_len, self.ignore_eos)

    @property
    def longest(self) -> int:
        """Most tokens of a request, its prompt included; of a file's prompts only what is generated."""
        return self.output_range[1] + (0 if self.texts else self.input_range[1])

    @property
    def max_new_tokens(self) -> int | None:
        """Tokens that every request is asked for; None if they differ."""
        return self.output_range[0] if self.output_range[0] == self.output_range[1] else None

    @property
    def dataset(self) -> str | None:
        """Which prompts of different lengths these are; None for synthetic ones of one length.

        Their mean length is that of the requests that happened to end in a window: it distinguishes no workloads.
        """
        if self.texts:
            return f"prompts of {self.file or 'a file'}"
        low, high = self.input_range
        return None if low == high else f"synthetic prompts of {low} to {high} tokens, seed {self.seed}"

    @property
    def input_len(self) -> int | None:
        """Tokens of every synthetic prompt; None if they differ, or are texts of a file."""
        return None if self.texts or self.input_range[0] != self.input_range[1] else self.input_range[0]


def workload(config: RunConfig, vocabulary: Sequence[int], max_model_len: int) -> Workload:
    """The workload of a run on a server.

    Raises:
        BenchmarkError: Its longest request does not fit the context window.
        UsageError: The file of prompts cannot be used.
    """
    options, performance = config.serving, config.performance
    output = length_range(options.output_len or performance.max_new_tokens)
    if performance.input_len is not None:
        given = length_range(performance.input_len)
    else:
        fitting = max(1, min(INPUT_LEN, (max_model_len - output[1]) // 2))
        given = (fitting, fitting)
    texts = () if options.prompt_file is None else read_prompts(options.prompt_file)
    file = None if options.prompt_file is None else file_label(options.prompt_file)
    found = Workload(config.seed, given, output, vocabulary, texts=texts, file=file)
    if found.longest >= max_model_len:
        cause = f"requests of up to {found.longest} tokens exceed the context window of {max_model_len}"
        raise BenchmarkError(cause, "lower --input-len or --output-len, or raise --max-model-len")
    return found


def file_label(path: Path) -> str:
    """A file by its name and the start of the SHA-256 of its content; by its name alone if it cannot be read."""
    try:
        return f"{path.name} ({hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"
    except OSError:  # said where it is read
        return path.name


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file: JSON Lines, or one JSON list as ShareGPT's, of prompts, texts or conversations.

    Raises:
        UsageError: It cannot be read, or an entry has no prompt.
    """
    remedy = "each entry needs a `prompt`, a `text`, or a conversation (`messages` or `conversations`)"
    try:
        if path.suffix == ".jsonl":
            with path.open("rb") as stream:
                rows: list[Any] = [safe_json.parse(line) for line in safe_json.lines(stream) if line.strip()]
        else:
            content = safe_json.parse(safe_json.read_bytes(path).decode())
            rows = content if isinstance(content, list) else [content]
    except (OSError, ValueError) as error:
        raise UsageError(f"--prompt-file {path}: cannot be read: {error}", remedy) from error
    found = [_prompt(row) for row in rows]
    for number, prompt in enumerate(found, start=1):
        if prompt is None:
            raise UsageError(f"--prompt-file {path}: entry {number} has no prompt", remedy)
    if not found:
        raise UsageError(f"--prompt-file {path}: has no prompts", remedy)
    return tuple(prompt for prompt in found if prompt is not None)


def _prompt(row: Any) -> str | None:
    """The prompt of an entry: of a conversation, its first turn that is not the system's."""
    if isinstance(row, str):
        return row or None
    if not isinstance(row, dict):
        return None
    for key in ("prompt", "text"):
        if isinstance(row.get(key), str) and row[key]:
            return str(row[key])
    turns = row.get("messages") or row.get("conversations") or ()
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and (turn.get("role") or turn.get("from")) != "system":
            content = turn.get("content") or turn.get("value")
            if isinstance(content, str) and content:
                return content
    return None
