"""`slim-eval schemes`: every scheme, how its checkpoint is made, and which engine runs it here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from slim_eval.doctor.facts import Facts
from slim_eval.engines import engines_for
from slim_eval.schemes import GGUF, INEXACT_KERNELS, KV8, ONLINE, SCHEMES, Scheme, scheme
from slim_eval.utils.word_table import WordTable, columns_of

_WITH_KV8 = ("fp16", "int8")


@dataclass(frozen=True)
class Served:
    """One engine that is installed here, for one scheme."""

    engine: str
    kernels: str | None  # as in records: ``native``, ``emulated``, ``inexact``; None if it does not serve the scheme
    reason: str | None  # why it does not


@dataclass(frozen=True)
class Line:
    """One scheme."""

    name: str
    label: str
    made_by: str | None  # ``vLLM, while loading`` without a checkpoint; None if the model's own weights are served
    group_size: int | None
    needs_calibration: bool
    engines: tuple[Served, ...]


def lines(facts: Facts) -> Iterator[Line]:
    """Every registered scheme, in the order of the table, on the engines that the serving interpreter has.

    Two stand for all those with an FP8 KV cache: without and with a checkpoint of their own.
    """
    for held in (*SCHEMES.values(), *(scheme(name + KV8) for name in _WITH_KV8)):
        recipe = held.recipe
        online = held.name.startswith(ONLINE)
        yield Line(
            name=held.name,
            label=held.label,
            made_by="vLLM, while loading" if online else None if recipe is None else recipe.name,
            group_size=None if recipe is None else recipe.group_size,
            needs_calibration=recipe is not None and recipe.needs_calibration,
            engines=tuple(_served(facts, held)),
        )


def _served(facts: Facts, held: Scheme) -> Iterator[Served]:
    installed = {} if isinstance(facts.serving, str) else facts.serving.modules
    for engine in engines_for(facts.config.engine):
        if engine.modules and engine.modules[-1] not in installed:
            continue
        build = (installed[engine.modules[-1]] or "") if engine.modules else ""
        platform = engine.expected_platform(build, facts.computing)
        reason = engine.obstacle(held, platform)
        kernels: str = engine.quantized_kernels if held.is_quantized else "native"
        if engine.is_inexact(held, platform):
            kernels = INEXACT_KERNELS
        if not engine.capabilities.dtype:
            kernels = "unknown"  # whatever the server has
        yield Served(engine.name, None if reason else kernels, reason)


def show(found: Sequence[Line], *, as_json: bool = False) -> None:
    """Print the list on stdout: a table with the reasons below it, or JSON."""
    if as_json:
        sys.stdout.write(json.dumps([asdict(line) for line in found], indent=2, ensure_ascii=False) + "\n")
        return
    names = list(dict.fromkeys(served.engine for line in found for served in line.engines))
    rows: list[tuple[str, ...]] = []
    reasons: dict[str, list[str]] = {}
    for line in found:
        cells = {served.engine: served.kernels or "no" for served in line.engines}
        made_by = line.made_by or "the model's own weights"
        rows.append((line.name, line.label, made_by, *(cells.get(name, "") for name in names)))
        for served in line.engines:
            if served.reason:
                reasons.setdefault(served.reason, []).append(line.name)
    out = Console(highlight=False)
    out.print(WordTable(columns_of(("scheme", "format", "made by", *names), rows)))
    out.print(f"every scheme with {KV8}, e.g. int4{KV8}: an FP8 KV cache; recipe:FILE.yaml: your own", markup=False)
    out.print(
        f"{', '.join(GGUF)}: GGUF files that exist already, with --engine openai --server llama.cpp", markup=False
    )
    for reason, schemes in reasons.items():
        out.print(f"{', '.join(schemes)}: {reason}", markup=False)
    if not names:
        out.print("no engine is installed: pip install 'slim-eval[all]', or see slim-eval doctor", markup=False)
    shown = {served.kernels for line in found for served in line.engines}
    for kernels, meaning in (
        ("emulated", "in 16-bit arithmetic: accuracy is that of the scheme, speed and energy are not"),
        (INEXACT_KERNELS, "the kernel's sums saturate on this CPU: speed is that of the scheme, accuracy is not"),
    ):
        if kernels in shown:
            out.print(f"{kernels}: {meaning}", markup=False)
