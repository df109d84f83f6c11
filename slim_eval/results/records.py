"""The content of records: one class per file, flat keys, units in their names.

Keys of the files published with SLiM-Eval 0.1.3 keep their names and meaning, so that old and new results fit in one
table. A metric that was not measured is ``None``, never 0. A unit is part of the key: ``_s`` seconds, ``_mb`` MiB
(2**20 bytes), ``_gb`` GiB (2**30 bytes), ``_watts``, ``_joules``. Definitions: docs/metrics.md. Where records are
stored: `results`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from slim_eval.metrics import headline_metric
from slim_eval.schemes import find
from slim_eval.utils.host import HostUse

SCHEMA_VERSION = 1


class _Model(BaseModel):
    # Keys of a newer minor schema are kept out, not refused: an old reader still reads what it knows.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class KernelReceipt(_Model):
    """Log-probabilities of a fixed text as the engine served it, against a reference; in nats per token.

    The reference is what Transformers computes with the same checkpoint, its quantized arithmetic emulated; the source
    is the model that the checkpoint was made from, by Transformers in its 16-bit type. ``None`` is "not known".
    """

    quantized_kernel: tuple[str, ...] | None = None  # classes of the engine's kernels of quantized layers
    agreement_tokens: int | None = None  # that were scored
    agreement_nll: float | None = None  # mean negative log-likelihood as served
    agreement_mean: float | None = None  # |served - reference|
    agreement_max: float | None = None  # the largest |served - reference| of a token
    agreement_loss: float | None = None  # by how much the text is less likely as served than by the reference
    agreement_loss_interval: tuple[float, float] | None = None  # 95 %, paired
    agreement_served: float | None = None  # mean |served - source|
    agreement_reference: float | None = None  # mean |reference - source|
    agreement_excess_interval: tuple[float, float] | None = None  # of the difference of these two; 95 %, paired


class Metadata(KernelReceipt):
    """What was measured, with what, where: the head of every record. ``None`` is "not known"."""

    schema_version: int = 0  # 0: a file published before slim-eval had a schema
    benchmark: str | None = None  # what measured it; records before 0.3 leave it to their file name
    stage: str | None = None  # of a benchmark that makes several records; None for the others
    model: str
    base_model: str | None = None  # what the model was made from; None if it is its own
    precision: str  # name of the scheme
    baseline: str | None = None  # name of the scheme that this variant is compared with; None: the default one
    quantization_scheme: str | None = None
    adapter: str | None = None  # the LoRA adapter that was merged into `base_model`; None without one
    group_size: int | None = None  # input columns that share a scale, if that is not the scheme's own number
    low_bit_share: float | None = None  # of the linear weights that are quantized; None if not recorded
    # Bits of the grid on which the 16-bit weights lie, if they were made from fewer bits; None if not, or not known.
    source_grid_bits: int | None = None
    timestamp: str | None = None  # ISO 8601, UTC
    num_parameters: int | None = None
    num_parameters_b: float | None = None  # num_parameters / 1e9
    model_size_gb: float | None = None  # weights of the language part; of an unquantized checkpoint at 16 bit
    revision: str | None = None  # commit of the model on the hub
    engine: str | None = None
    engine_version: str | None = None
    engine_reason: str | None = None  # why this engine
    dtype: str | None = None  # of activations, e.g. "bfloat16"
    # "native"; "inexact" if a native quantized kernel is wrong beyond rounding; "emulated" if one is imitated
    kernels: str | None = None
    kernel_error: float | None = None  # of an inexact kernel's products, relative to the exact ones (RMS)
    environment: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    fingerprint: str | None = None  # SHA-256 over measured_with
    measured_with: dict[str, Any] | None = None  # exactly what the numbers depend on, as `fingerprints` names it
    stage_duration_s: float | None = None  # wall time of the whole stage, warm-up and all
    # Other stages of slim-eval on the same machine meanwhile, if the number depends on them; None if not known.
    beside: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    # What a file of schema 0 stores as 0, its word for a failure: the record's name, or fields. Not written.
    zeros: tuple[str, ...] = Field(default=(), exclude=True)


#: Key of a metric -> its 95 % interval, in the metric's own unit.
Intervals = dict[str, tuple[float, float]]


class Metrics(_Model):
    """Base of what a benchmark returns: the fields that its record adds to the head."""


class ObservedMetrics(Metrics):
    """Base of what is measured in a window during which the host is observed, because other work would distort it."""

    valid: bool | None = None  # None: not recorded, or nothing was measured
    invalid_reasons: tuple[str, ...] = ()
    host: HostUse | None = None  # None in older and imported records
    max_contention: float | None = None  # the limit on `host` that was in force; 1: nothing was refused

    @property
    def invalidity(self) -> str:
        """Why it is invalid and, if the host was disturbed, what to do; empty if it is valid or that is unknown."""
        if self.valid is not False:
            return ""
        why, remedy = "; ".join(self.invalid_reasons) or "the record gives no reason", ""
        if self.host is not None and self.max_contention is not None:
            remedy = self.host.remedy(self.max_contention)
        return f"{why}: {remedy}" if remedy else why


class PerformanceMetrics(ObservedMetrics):
    """Latency, throughput, memory. ``mean_latency_s`` and its kin are amortised: iteration wall time / batch size."""

    mean_latency_s: float | None = None
    median_latency_s: float | None = None
    p95_latency_s: float | None = None
    p99_latency_s: float | None = None
    std_latency_s: float | None = None
    tokens_per_second: float | None = None  # output tokens / iteration wall time
    ttft_s: float | None = None  # mean over requests, as are tpot_s and e2e_latency_s
    median_ttft_s: float | None = None
    p95_ttft_s: float | None = None
    p99_ttft_s: float | None = None
    std_ttft_s: float | None = None
    tpot_s: float | None = None
    median_tpot_s: float | None = None
    p95_tpot_s: float | None = None
    p99_tpot_s: float | None = None
    std_tpot_s: float | None = None
    e2e_latency_s: float | None = None
    median_e2e_latency_s: float | None = None
    p95_e2e_latency_s: float | None = None
    p99_e2e_latency_s: float | None = None
    std_e2e_latency_s: float | None = None
    mean_peak_mem_mb: float | None = None
    mean_avg_mem_mb: float | None = None
    memory_source: str | None = None  # how the two above were read
    weights_gb: float | None = None
    kv_cache_gb: float | None = None
    kv_cache_tokens: int | None = None
    kv_cache_bytes_per_token: float | None = None
    max_concurrency: float | None = None  # kv_cache_tokens / max_model_len
    concurrency_by_context: dict[int, int] = Field(default_factory=dict)  # tokens per request -> requests that fit
    max_model_len: int | None = None
    load_time_s: float | None = None
    mbu: float | None = None  # model bandwidth utilisation, a share of memory_bandwidth_gb_s
    memory_bandwidth_gb_s: float | None = None  # of all devices together, 10**9 bytes per second
    batch_size: int | None = None
    num_warmup: int | None = None  # requests before the measured ones
    warmup_stable: bool | None = None  # no drift left in what was measured; None: too few iterations to tell
    num_runs: int | None = None  # measured requests
    num_errors: int | None = None  # requests of a server that failed, which the numbers are not of
    num_iterations: int | None = None
    stop_reason: str | None = None  # why no more requests were measured
    target_ci: float | None = None  # share of the mean that was asked for
    input_len: int | None = None  # of synthetic prompts
    intervals: Intervals = Field(default_factory=dict)
    prompt_tokens: float | None = None  # per request, mean
    output_tokens: float | None = None  # per request, mean


class EnergyMetrics(ObservedMetrics):
    """Energy of the devices that compute, over a window of requests. Definitions: docs/metrics.md."""

    energy_joules: float | None = None  # gross
    energy_joules_net: float | None = None  # minus idle power x duration
    energy_kwh: float | None = None
    joules_per_output_token: float | None = None
    joules_per_total_token: float | None = None
    tokens_per_joule: float | None = None  # output tokens
    energy_per_query_j: float | None = None
    avg_power_watts: float | None = None
    min_power_watts: float | None = None
    max_power_watts: float | None = None
    std_power_watts: float | None = None
    idle_power_watts: float | None = None
    duration_seconds: float | None = None
    energy_source: str | None = None  # "nvml-counter", "nvml-integral", "codecarbon (…)"; None: not measured
    energy_joules_counter: float | None = None
    energy_joules_integral: float | None = None
    counter_disagreement: float | None = None  # |counter - integral| / counter
    min_sm_clock_mhz: float | None = None
    mean_sm_clock_mhz: float | None = None
    sm_clock_share: float | None = (
        None  # mean / highest SM clock of the slowest GPU, of those at their power cap if any
    )
    mean_memory_clock_mhz: float | None = None
    mean_temperature_celsius: float | None = None
    max_temperature_celsius: float | None = None
    throttle_reasons: dict[str, float] = Field(default_factory=dict)  # reason -> share of the samples
    intervals: Intervals = Field(default_factory=dict)
    devices: tuple[str, ...] = ()  # UUIDs
    batch_size: int | None = None
    num_runs: int | None = None
    num_lead_in: int | None = None  # requests before the window opened
    prompt_tokens: float | None = None  # per request, mean
    output_tokens: float | None = None  # per request, mean


class ServingLevel(ObservedMetrics):
    """One load of a server: what was asked of it, the work, and every metric, flat; None is "not known"."""

    load: str  # how requests arrive, with the tool that sent them: ``vllm bench serve, rate-1``; compared as such
    label: str  # distinguishes it from the other levels of its record: ``rate-1``, ``concurrency-8 input_len=100``
    # Asked for.
    request_rate: float | None = None  # requests per second; None: no rate was asked for
    arrivals: str | None = None  # ``poisson``, ``constant``, ``gamma``, ``all at once``, ``closed loop``, ``ramp``
    burstiness: float | None = None  # shape of gamma arrivals; 1 is Poisson
    max_concurrency: int | None = None  # most requests in flight
    num_prompts: int | None = None
    input_len: int | None = None  # tokens per prompt
    max_new_tokens: int | None = None  # tokens per request, if all are asked for the same number
    dataset: str | None = None
    speculative: str | None = None  # method of speculative decoding, or what shows that there was any
    metadata: dict[str, str] = Field(default_factory=dict)  # what the user wrote into the file to distinguish runs
    # Achieved.
    achieved_concurrency: float | None = None  # requests in flight, mean over the level
    requests_per_second: float | None = None  # that succeeded
    num_runs: int | None = None  # requests that succeeded, which the metrics are of
    num_errors: int | None = None  # that failed or were cut off
    duration_s: float | None = None
    prompt_tokens: float | None = None  # per request, mean
    output_tokens: float | None = None  # per request, mean
    tokens_per_second: float | None = None  # output tokens
    total_tokens_per_second: float | None = None  # prompt tokens too
    goodput: float | None = None  # requests per second that keep every objective
    slo: tuple[str, ...] = ()  # the objectives
    slo_met: bool | None = None  # whether the statistic that each objective names is within its limit
    saturated: bool | None = None  # whether more load gave no more work: the queue grew, or requests were refused
    errors: dict[str, int] = Field(default_factory=dict)  # what failed -> requests
    stop_reason: str | None = None  # why the window closed
    client_cpu_share: float | None = None  # of one CPU that the client used: near 1, it was the limit
    client_delay_s: float | None = None  # by which the client was late, p99
    kv_cache_usage: float | None = None  # share in use, mean, as the server reports it
    queue_length: float | None = None  # requests that wait in the server, mean, likewise
    ttft_s: float | None = None  # mean over requests, as are tpot_s and e2e_latency_s
    median_ttft_s: float | None = None
    p95_ttft_s: float | None = None
    p99_ttft_s: float | None = None
    std_ttft_s: float | None = None
    tpot_s: float | None = None
    median_tpot_s: float | None = None
    p95_tpot_s: float | None = None
    p99_tpot_s: float | None = None
    std_tpot_s: float | None = None
    itl_s: float | None = None  # mean over every gap between two tokens of a request
    median_itl_s: float | None = None
    p95_itl_s: float | None = None
    p99_itl_s: float | None = None
    std_itl_s: float | None = None
    e2e_latency_s: float | None = None
    median_e2e_latency_s: float | None = None
    p95_e2e_latency_s: float | None = None
    p99_e2e_latency_s: float | None = None
    std_e2e_latency_s: float | None = None
    # Energy of the devices that compute, over the same window.
    energy_joules: float | None = None
    joules_per_output_token: float | None = None
    avg_power_watts: float | None = None
    energy_source: str | None = None  # as in the energy record
    energy_reasons: tuple[str, ...] = ()  # why energy is missing
    intervals: Intervals = Field(default_factory=dict)
    # Where it comes from, if it was imported.
    measured_at: str | None = None  # as the tool writes it
    repetition: int | None = None  # its number among those with the same settings, by the file
    source: str | None = None  # name of the file
    sha256: str | None = None  # of the file
    replaced: tuple[str, ...] = ()  # earlier measurements with the same settings, which are not kept
    notes: tuple[str, ...] = ()


class ServingMetrics(Metrics):
    """One server under one load or several."""

    levels: tuple[ServingLevel, ...] = ()  # by request rate, then by concurrency
    ended: str | None = None  # why no further level was measured; None: imported, or not yet ended
    load_time_s: float | None = None  # of the server
    idle_power_watts: float | None = None  # with the server loaded
    max_goodput: float | None = None  # requests per second at the highest load that keeps the objectives
    max_goodput_interval: tuple[float, float] | None = None  # rates between which the limit lies with confidence
    goodput_load: str | None = None  # label of that load; "none" if none keeps them


class AccuracyMetrics(Metrics):
    """One lm-eval task.

    ``accuracy`` is the headline metric, named in ``metric`` as lm-eval names it (``acc,none``). It is a share of right
    answers only if the metric is: of ``word_perplexity,none`` it is the perplexity.
    """

    task: str
    accuracy: float | None = None
    metric: str | None = None
    higher_is_better: bool | None = None  # of the headline metric, by the task; None: the task or file does not say
    stderr: float | None = None
    clustered_stderr: float | None = None  # items of one subtask may succeed and fail together
    intervals: Intervals = Field(default_factory=dict)
    num_items: int | None = None
    num_fewshot: int | None = None
    limit: int | float | None = None  # items per (sub)task; below 1 a share of them
    batch_size: int | None = None
    thinking: str | None = None  # "on" or "off"; None: the chat template's default
    apply_chat_template: bool | None = None
    max_model_len: int | None = None  # context window in tokens
    truncated_requests: int | None = None  # whose prompt was cut to fit the window; None in older and imported records
    prompts_without_turns: int | None = None  # that lack a turn which the chat template drops; None likewise
    unfinished_thoughts: int | None = None  # answers that ended within their thought; None without --thinking on
    metrics: dict[str, float | None] = Field(default_factory=dict)  # every metric and stderr that lm-eval reports
    # Name -> metrics, num_items, num_fewshot; of a subgroup also its subtasks; in a group without a metric of its own
    # also `listed` and `filters`, as in `metrics.headline_metric`, and `higher_is_better` by metric.
    subtasks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    task_versions: dict[str, Any] = Field(default_factory=dict)  # (sub)task -> version
    task_hashes: dict[str, str] = Field(default_factory=dict)  # (sub)task -> lm-eval's hash of its items
    duration_seconds: float | None = None


class Record(Metadata):
    """What one benchmark of one variant wrote: the head, and the metrics that a subclass adds."""

    @property
    def name(self) -> str:
        """What it is called in its variant: the benchmark, or the task of an accuracy record."""
        assert self.benchmark is not None, "a record without its own class must name its benchmark"
        return self.stage or self.benchmark

    @cached_property
    def hardware(self) -> str | None:
        """GPU and CPU names as one text: ``2 x NVIDIA A100, AMD EPYC 7763``. None if not recorded."""
        environment = self.environment or {}
        if environment.get("endpoint"):  # what computes there is not known
            return f"endpoint {environment['endpoint']}"
        gpus = environment.get("gpus") or ()
        found = Counter(str(gpu.get("name")) if isinstance(gpu, Mapping) else str(gpu) for gpu in gpus)
        names = [f"{count} x {name}" if count > 1 else name for name, count in sorted(found.items())]
        if environment.get("cpu"):
            names.append(str(environment["cpu"]))
        return ", ".join(names) or None

    @property
    def is_prequantized(self) -> bool:
        """Whether the model came quantized: its own method stands in place of its scheme's."""
        found = find(self.precision)
        if found is None or found.is_quantized:
            return False
        return self.quantization_scheme not in (None, found.recorded_as)


class PerformanceRecord(PerformanceMetrics, Record):
    """`performance.json`."""

    name: ClassVar[str] = "performance"


class EnergyRecord(EnergyMetrics, Record):
    """`energy.json`."""

    name: ClassVar[str] = "energy"


class ServingRecord(ServingMetrics, Record):
    """`serving.json`: a sweep over loads; its levels are the numbers, and `at` has those of one of them."""

    name: ClassVar[str] = "serving"

    def at(self, level: ServingLevel) -> PerformanceRecord:
        """One level in the form in which speed is compared, with its load and workload among the settings."""
        shared = PerformanceMetrics.model_fields.keys() & ServingLevel.model_fields.keys()
        values = {key: getattr(level, key) for key in shared}
        head = {key: getattr(self, key) for key in Metadata.model_fields}
        settings = {
            "load": level.load, "max_new_tokens": level.max_new_tokens, "dataset": level.dataset,
            "speculative": level.speculative, "metadata": level.metadata or None,
            "request_rate": level.request_rate, "max_concurrency": level.max_concurrency,
        }  # fmt: skip
        config = {**(self.config or {}), "performance": {k: v for k, v in settings.items() if v is not None}}
        concurrency = {"batch_size": level.max_concurrency, "max_concurrency": None}
        return PerformanceRecord(**{
            **head, **values, **concurrency, "benchmark": PerformanceRecord.name, "config": config,
            "timestamp": self.timestamp, "notes": (*self.notes, *level.notes),
        })  # fmt: skip

    def energy_at(self, level: ServingLevel) -> EnergyRecord | None:
        """The energy of one level in the form in which energy is compared, or invalid; None if it was not measured."""
        reasons = level.energy_reasons if level.energy_source is not None else ()
        if level.joules_per_output_token is None and not reasons:
            return None
        shared = EnergyMetrics.model_fields.keys() & ServingLevel.model_fields.keys()
        speed = self.at(level)
        head = {key: getattr(speed, key) for key in Metadata.model_fields}
        count = {"batch_size": level.max_concurrency, "duration_seconds": level.duration_s}
        values = {key: getattr(level, key) for key in shared}
        if reasons:
            values |= {"valid": False, "invalid_reasons": (*level.invalid_reasons, *reasons)}
        return EnergyRecord(**{**head, **values, **count, "benchmark": EnergyRecord.name})


class AccuracyRecord(AccuracyMetrics, Record):
    """`{task}.json`."""

    @property
    def name(self) -> str:
        """The task."""
        return self.task

    def members(self) -> list[MemberRecord]:
        """The tasks and subgroups with a metric of a group for which lm-eval computes none; empty for any other."""
        if self.accuracy is not None or self.metric is not None:
            return []
        found: list[MemberRecord] = []
        for task, entry in self.subtasks.items():
            if any(task in member.leaves for member in found):
                continue
            metrics = {key: value for key, value in entry.items() if "," in key}
            metric = headline_metric(task, metrics, entry.get("listed", ()), entry.get("filters", ()))
            if metric is None or metrics[metric] is None:
                continue
            leaves = tuple(entry.get("subtasks") or (task,))
            found = [member for member in found if member.task not in leaves]
            own = {
                "task": task, "group": self.task, "leaves": leaves,
                "accuracy": metrics[metric], "metric": metric, "metrics": metrics,
                "higher_is_better": entry.get("higher_is_better", {}).get(metric.split(",")[0]),
                "stderr": metrics.get(metric.replace(",", "_stderr,", 1)), "num_items": entry.get("num_items"),
                "num_fewshot": entry.get("num_fewshot"),
                "subtasks": {leaf: self.subtasks[leaf] for leaf in leaves if leaf != task and leaf in self.subtasks},
                "task_versions": {name: v for name, v in self.task_versions.items() if name in (task, *leaves)},
                "task_hashes": {name: v for name, v in self.task_hashes.items() if name in leaves},
            }  # fmt: skip
            found.append(MemberRecord.model_validate(dict(self) | own))
        return found


class MemberRecord(AccuracyRecord):
    """A task or subgroup of a group: part of the group's record and samples, without a file of its own."""

    group: str  # the task of the group's record
    leaves: tuple[str, ...]  # the tasks of its samples


class ErrorRecord(Metadata):
    """`{name}.error.json`: a stage that made no number."""

    stage: str
    cause: str
    remedy: str = ""
    log: str | None = None  # path of the engine's output, relative to the record


#: Benchmark -> the class of its records, in the order in which benchmarks are shown. Registering a benchmark
#: adds to it.
RECORD_CLASSES: dict[str, type[Record]] = {
    "performance": PerformanceRecord,
    "energy": EnergyRecord,
    "serving": ServingRecord,
    "accuracy": AccuracyRecord,
}


class PairedTask(_Model):
    """One task of two variants, item by item; the first is the baseline. A drop above 0 means that the other is worse.

    Percentage points are of the headline metric, if it is a share of answers. Another one has its own unit: it has a
    `loss` or, if it is a perplexity, a `ratio`, and no margin. With `refused` there are no numbers. With `unpaired`
    there were no outcomes of single items: the numbers are of two independent shares, and the items may be fewer or
    more.
    """

    task: str
    metric: str | None = None
    refused: str | None = None  # why the two must not be paired
    unpaired: bool = False  # from two separate accuracies, not item by item
    assumed: bool = False  # the number of items is the full size of the task, because none was recorded
    interval_from: str | None = None  # of an unpaired interval: what it was computed from
    num_items: int | None = None
    num_left_out: int = 0  # items without a score in one of the two
    num_clusters: int | None = None  # subtasks
    design_effect: float | None = None  # by how much they multiply the variance of the drop, at least 1
    baseline_accuracy: float | None = None  # over the paired items
    accuracy: float | None = None
    drop_pp: float | None = None
    interval_pp: tuple[float, float] | None = None  # 95 %, paired unless `unpaired`
    higher_is_better: bool | None = None  # of a metric in its own unit; of shares False, or None if it is
    loss: float | None = None  # in the unit of the metric; above 0 the other is worse
    loss_interval: tuple[float, float] | None = None  # 95 %, paired unless `unpaired`
    ratio: float | None = None  # of perplexities, the other's / the baseline's
    ratio_interval: tuple[float, float] | None = None  # 95 %, from the documents' log-likelihoods unless `unpaired`
    no_interval: str | None = None  # why a metric in its own unit has none
    lost: int | None = None  # right in the baseline, wrong here
    gained: int | None = None
    flips: float | None = None  # share of items whose correctness changed
    p_value: float | None = None  # exact McNemar, a paired t-test for graded scores, or unpaired, the score test
    p_value_holm: float | None = None  # corrected over all tasks and precisions shown together
    answer_kl: float | None = None  # nats; over answer choices
    margin_pp: float | None = None
    verdict: str | None = (
        None  # "equivalent", "degraded", "underpowered"; in its own unit: "improved" or one of the last two
    )
    items_needed: int | None = None  # where underpowered: to see a drop of the margin at 80 % power
    needs_subtasks: bool = False  # where underpowered: no number of items of these few subtasks would suffice


class PairedRecord(_Model):
    """`paired.json`: a quantized variant against the 16-bit variant of the same model, on the same items."""

    schema_version: int = SCHEMA_VERSION
    model: str
    precision: str
    baseline: str  # folder of the baseline, relative to the variant's
    timestamp: str
    margin_pp: float
    tasks: tuple[PairedTask, ...]


class FloorEntry(_Model):
    """What one metric of the same variant, measured again and again, came to.

    Floor, interval and standard deviations are relative, a fraction; for a task, they are percentage points. Records of
    0.2.0 contain values and floor only.
    """

    values: tuple[float | None, ...]  # one per run; None if not measured, invalid, or still drifting
    floor: float | None = Field(None, ge=0)  # change that is still noise
    floor_interval: tuple[float, float] | None = None  # 95 %, of what two single runs differ by; None: no difference
    mean: float | None = None  # of the runs; geometric, but for a task
    within: float | None = None  # standard deviation of a run's value due to its iterations; None if it has none
    between: float | None = None  # the same due to its process; all of the spread if `within` is None
    between_p_value: float | None = None  # of no variation between processes; None if `within` is None


class NoiseRecord(_Model):
    """`noise.json`: how much the numbers of one variant differ from run to run, though nothing changed."""

    schema_version: int = SCHEMA_VERSION
    model: str
    precision: str
    timestamp: str
    engine: str | None = None
    kernels: str | None = None
    dtype: str | None = None
    hardware: str | None = None
    shared_node: str | None = None  # "yes" if other variants were worked on beside it, else "no"; None if not recorded
    batch_size: int | None = None
    max_new_tokens: int | None = None
    prompt_tokens: float | None = None  # per request, mean
    iterations: tuple[int | None, ...] = ()  # measured in each run; `within` falls with their square root
    metrics: dict[str, FloorEntry] = Field(default_factory=dict)
    tasks: dict[str, FloorEntry] = Field(default_factory=dict)  # accuracy of each run, and the floor of its drop
    flips: dict[str, float] = Field(default_factory=dict)  # task -> largest share of answers that changed


@dataclass(frozen=True)
class Measurement:
    """What a benchmark returns: its metrics, the raw samples they were computed from, and notes for the user."""

    metrics: Metrics
    samples: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    disturbances: tuple[str, ...] = ()  # of the host, which make it invalid: it may succeed later
