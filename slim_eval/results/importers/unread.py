"""Files that are known and not read: what each is, and what to import in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unread:
    """A kind of file that is recognised and not imported."""

    what: str
    remedy: str
    fields: tuple[frozenset[str], ...] = ()  # any of these sets of fields shows that it is one
    text: re.Pattern[str] | None = None  # or what its text contains, of a file that is not JSON


def _with(*names: str) -> frozenset[str]:
    return frozenset(names)


UNREAD = (
    Unread(
        "slim-eval's own record", "use `slim-eval analyze` with the folder that contains it",
        (_with("schema_version", "benchmark", "model"), _with("schema_version", "precision")),
    ),
    Unread(
        "per-item samples of lm-eval", "import the results file of the same run, with the samples beside it",
        (_with("doc_id", "resps"), _with("doc_id", "filtered_resps")),
    ),
    Unread(
        "a result of lighteval or of the first Open LLM Leaderboard",
        "run the tasks with lm-eval and import its results",
        (_with("config_general", "results"),),
    ),
    Unread(
        "the raw profile of genai-perf or perf_analyzer",
        "import the summary beside it, profile_export_genai_perf.json",
        (_with("experiments", "service_kind"), _with("experiments", "version")),
    ),
    Unread(
        "requests of AIPerf", "import profile_export_aiperf.json beside it", (_with("metadata", "metrics", "error"),)
    ),
    Unread(
        "sglang's offline benchmark (bench_offline_throughput or bench_one_batch)",
        "measure with `python -m sglang.bench_serving` and import its JSONL",
        (_with("successful_requests", "total_latency"), _with("prefill_latency", "overall_throughput"),
         _with("median_decode_latency"), _with("latency", "output_throughput", "batch_size", "input_len")),
    ),
    Unread(
        "a failed or skipped run of `vllm bench sweep`", "import the files of the runs that succeeded",
        (_with("run_number", "error"), _with("run_number", "error_type")),
    ),
    Unread(
        "`vllm bench startup`, which measures how long an engine starts",
        "import results of `vllm bench serve` or `latency`",
        (_with("avg_cold_startup_time"), _with("avg_warm_startup_time")),
    ),
    Unread(
        "a report of guidellm 0.1", "measure again with a newer guidellm: it wrote no totals",
        (_with("benchmarks", "args"),),
    ),
    Unread(
        "guidellm's CSV", "import its JSON or YAML (`--output-path benchmarks.json`)",
        (_with("Run Id", "Id", "Name"),), re.compile(r"\A\W*Benchmark\b.*\n\W*(Type|Strategy|Id)\b"),
    ),
    Unread(
        "llama-bench's table or SQL", "run llama-bench with `-o json` and import that",
        text=re.compile(
            r"^\| *model +\| *size +\| *params +\||^(CREATE TABLE|INSERT INTO)\b[^;]*\bbuild_commit\b", re.MULTILINE
        ),
    ),
    Unread(
        "the table that lm-eval prints", "run lm-eval with `--output_path` and import the results file",
        text=re.compile(r"^\| *(Tasks|Groups) *\| *Version *\|", re.MULTILINE),
    ),
    Unread(
        "what a serving benchmark of vLLM or sglang prints",
        "run it with `--save-result` (vLLM) or `--output-file` (sglang) and import that",
        text=re.compile(r"^=+ Serving Benchmark Result =+", re.MULTILINE),
    ),
    Unread(
        "settings of optimum-benchmark", "import benchmark_report.json or benchmark.json of the same run",
        (_with("backend", "launcher", "scenario"), _with("backend", "launcher", "benchmark")),
    ),
    Unread(
        "the configuration of a model", "measure the model; a configuration contains no results",
        (_with("architectures"), _with("model_type", "hidden_size")),
    ),
)  # fmt: skip


def refusal_of_text(text: str) -> str | None:
    """What a file is by its text, and what to do; None if it is not known."""
    found = (kind for kind in UNREAD if kind.text is not None and kind.text.search(text))
    return next((f"{kind.what}: {kind.remedy}" for kind in found), None)


def refusal(document: Any, fields: Mapping[str, Any], tools: str) -> str:
    """Why a file is not imported: what it is and what to do, as one line without the file's name.

    Args:
        document: Its first document.
        fields: Its first object, empty if there is none.
        tools: What can be imported, in words.
    """
    for kind in UNREAD:
        if any(names <= fields.keys() for names in kind.fields):
            return f"{kind.what}: {kind.remedy}"
    if isinstance(document, (list, dict)) and not document:
        return f"contains an empty {'list' if isinstance(document, list) else 'JSON object'}; {tools}"
    if not fields:
        kinds = {list: "list", str: "text", bool: "true or false", int: "number", float: "number", type(None): "null"}
        return f"contains a JSON {kinds.get(type(document), 'value')} without objects; {tools}"
    return f"unknown format, first fields: {', '.join(map(repr, list(fields)[:5]))}; {tools}"
