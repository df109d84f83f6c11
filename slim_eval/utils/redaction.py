"""Redaction of secrets in everything that is written or shown.

The values of the environment variables in `VARIABLES` are secret, the texts passed to `remember`, and everything that
looks like a token of the hub, Weights & Biases, GitHub, OpenAI or AWS, an authorization header, or a password in an
address. Bare hexadecimal digits are not: commits, revisions and hashes consist of them.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import starmap
from types import TracebackType
from typing import Any
from urllib.parse import quote

REDACTED = "[redacted]"
#: Environment variables whose values are secret.
VARIABLES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY",
    "SLIM_EVAL_API_KEY",
)  # fmt: skip
#: A shorter value is not a key, and occurs as a part of words.
MIN_LENGTH = 8

_PREFIXES = {
    **dict.fromkeys(("hf_", "api_org_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"[A-Za-z0-9]{30,}"),
    **dict.fromkeys(("github_pat_", "wandb_v1_", "wandb_v2_"), r"[A-Za-z0-9_-]{30,}"),
}
_remembered: set[str] = set()
_Shape = tuple[str, re.Pattern[str]]


def _shape(marker: str, rest: str, word: bool = False) -> _Shape:
    """A marker that a text must contain for a pattern to be tried, and the pattern; `word`: only where a word starts.

    In JSON a token may follow an escaped line break, whose last letter is not part of it.
    """
    start = escaped = re.escape(marker)
    if word:
        start += rf"(?:(?<![A-Za-z0-9]{escaped})|(?<=\\[nrtbf]{escaped})|(?<=\\u[0-9a-f]{{4}}{escaped}))"
    return marker, re.compile(start + rest)


# The match of the group named `secret` is replaced, or the whole match without one.
_SHAPES = (
    *starmap(_shape, _PREFIXES.items()),
    # In LaTeX with a backslash before each ``_``.
    *(_shape(prefix.replace("_", "\\_"), rest.replace("_-]", r"_\\-]")) for prefix, rest in _PREFIXES.items()),
    _shape("sk-", r"(?:[A-Za-z0-9]{32,}|(?:proj|svcacct|admin|ant|or|live|test)[A-Za-z0-9]*-[A-Za-z0-9_-]{32,})", True),
    _shape("AKIA", r"[A-Z0-9]{16}(?![A-Za-z0-9])", True),
    *(_shape(word, r"(?:\s|%20)+(?P<secret>[A-Za-z0-9._~+/=-]{16,})") for word in ("Bearer", "bearer", "BEARER")),
    _shape("uthorization", r"[^A-Za-z]{1,20}[Bb]asic\s+(?P<secret>[A-Za-z0-9+/=_-]{8,})"),
    # A password may contain an @; a name alone is secret if it is as long as a token.
    _shape("://", r"(?P<secret>[^\s/?#\"'<>\\:@\[]*:[^\s/?#\"'<>\\]+|[^\s/?#\"'<>\\:@\[]{20,})(?=@)"),
)


class Redacted(str):
    """A text that is redacted already, or must not change: `redact` returns it unchanged."""

    __slots__ = ()


def remember(secret: str) -> None:
    """Treat a text as secret from now on, in this process, unless it is shorter than `MIN_LENGTH`."""
    _remembered.add(secret.strip())


def redact(text: str) -> str:
    """The text with `REDACTED` in place of every secret; idempotent."""
    return text if isinstance(text, Redacted) else _redact(text, _secrets())


def redact_lines(texts: Iterable[str]) -> Iterator[str]:
    """`redact` of each of many texts, such as samples: what is secret is looked up once."""
    secrets = _secrets()
    return (_redact(text, secrets) for text in texts)


def _secrets() -> tuple[str, ...]:
    values = tuple(os.environ.get(name, "").strip() for name in VARIABLES)
    return _spellings(values, frozenset(_remembered))


def _redact(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    for marker, pattern in _SHAPES:
        if marker in text:
            text = pattern.sub(_without_secret, text)
    return text


def redact_all(value: Any) -> Any:
    """The same for every text in a value, at any depth of dicts, lists and tuples, keys included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_all(item) for item in value]
    if isinstance(value, tuple):
        return tuple(redact_all(item) for item in value)
    return value


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook`: the traceback of an unexpected error, redacted."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _without_secret(match: re.Match[str]) -> str:
    if "secret" not in match.re.groupindex:
        return REDACTED
    start, end = match.span("secret")
    return match.string[match.start() : start] + REDACTED + match.string[end : match.end()]


@lru_cache(maxsize=8)
def _spellings(values: tuple[str, ...], remembered: frozenset[str]) -> tuple[str, ...]:
    """Spellings of secrets in text, JSON, HTML, URLs and LaTeX; longest first, as one may be a part of another."""
    secrets = {value for value in (*values, *remembered) if len(value) >= MIN_LENGTH and value not in REDACTED}
    spelled = {
        spelling
        for secret in secrets
        for spelling in (
            secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], html.escape(secret),
            quote(secret, safe="", errors="replace"), secret.replace("_", "\\_"),
        )
    }  # fmt: skip
    return tuple(sorted(spelled, key=lambda spelling: (-len(spelling), spelling)))
