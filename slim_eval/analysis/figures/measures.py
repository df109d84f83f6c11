"""The metrics that figures show: their names, units, what is better, and which doubts concern them."""

from __future__ import annotations

from slim_eval.analysis.figures.plotdata import Measure, PlotData
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN, directions
from slim_eval.analysis.rules import Doubt

_MEMORY = frozenset({Doubt.EMULATED})
_SPEED = frozenset({Doubt.SPEED_SETUP, Doubt.EMULATED})
_ENERGY = frozenset({Doubt.ENERGY_SETUP, Doubt.INVALID_ENERGY, Doubt.EMULATED})
_SPEED_SETTINGS = ("engine", "hardware", "batch_size", "max_new_tokens")
_ENERGY_SETTINGS = (
    "energy_engine", "energy_hardware", "energy_batch_size", "energy_max_new_tokens", "energy_source",
)  # fmt: skip
_TASK_SETTINGS = ("_metric", "_num_fewshot", "_limit")

AMORTISED = Measure(
    "mean_latency_s", "Amortised latency", "ms a request (batch time / batch size)", 1000,
    doubts=_SPEED | {Doubt.LENGTH}, settings=_SPEED_SETTINGS,
)  # fmt: skip
E2E = Measure("e2e_latency_s", "End-to-end latency (E2E)", "ms a request", 1000, doubts=_SPEED | {Doubt.LENGTH},
              settings=_SPEED_SETTINGS)  # fmt: skip
TTFT = Measure("ttft_s", "Time to first token (TTFT)", "ms", 1000, doubts=_SPEED, settings=_SPEED_SETTINGS)
TPOT = Measure("tpot_s", "Time per output token (TPOT)", "ms a token, after the first", 1000, doubts=_SPEED,
               settings=_SPEED_SETTINGS)  # fmt: skip
THROUGHPUT = Measure("tokens_per_second", "Throughput", "output tokens/s", lower=False, doubts=_SPEED,
                     settings=_SPEED_SETTINGS)  # fmt: skip
DISK = Measure("model_size_gb", "Weights on disk", "GiB")
WEIGHTS = Measure("weights_gb", "Weights as loaded", "GiB", doubts=_MEMORY)
PEAK = Measure("mean_peak_mem_mb", "Peak while serving", "GiB", 1 / 1024, doubts=_MEMORY)
J_TOKEN = Measure("joules_per_output_token", "Energy per output token", "J a token", doubts=_ENERGY,
                  settings=_ENERGY_SETTINGS)  # fmt: skip
J_REQUEST = Measure("energy_per_query_j", "Energy per request", "J a request", doubts=_ENERGY | {Doubt.LENGTH},
                    settings=_ENERGY_SETTINGS)  # fmt: skip
WINDOW = Measure("energy_joules", "Whole measured window", "kJ", 1 / 1000, doubts=_ENERGY | {Doubt.LENGTH},
                 settings=_ENERGY_SETTINGS)  # fmt: skip
POWER = Measure("avg_power_watts", "Mean power while serving", "W", doubts=_ENERGY, settings=_ENERGY_SETTINGS)
SPEEDUPS = (
    Measure("per_token_speedup", "By throughput", "ratio to fp16 (1 = as fast)", lower=False, reference=1.0),
    Measure("tpot_speedup", "By time per output token (TPOT)", "ratio to fp16 (1 = as fast)", lower=False,
            reference=1.0),
    Measure("speedup", "By amortised latency", "ratio to fp16 (1 = as fast)", lower=False, reference=1.0,
            doubts=frozenset({Doubt.LENGTH})),
)  # fmt: skip

# Of several ways to say one thing, in the order in which they are preferred.
LATENCIES = (TPOT, AMORTISED)
ENERGIES = (J_TOKEN, J_REQUEST)
MEMORIES = (WEIGHTS, DISK)


def accuracies(data: PlotData) -> list[Measure]:
    """One metric a task shown; shares in %."""
    higher = directions(data.rows)
    return [
        Measure(
            task, task, f"% ({_metrics(data, task)})", 100, lower=not higher.get(task, True),
            settings=tuple(f"{task}{suffix}" for suffix in _TASK_SETTINGS),
            limit=100 if higher.get(task, True) else None,
        )
        for task in data.tasks
    ]  # fmt: skip


def mean_accuracy(data: PlotData) -> Measure:
    """The mean over the tasks that the most configurations have."""
    tasks = str(data.configurations[0].row.get(f"{ACCURACY_MEAN}_tasks") or "").split(", ")
    settings = tuple(f"{task}{suffix}" for task in tasks for suffix in _TASK_SETTINGS)
    return Measure(
        ACCURACY_MEAN,
        f"Mean accuracy of {len(tasks)} task{'s' if len(tasks) > 1 else ''}",
        "%",
        100,
        lower=False,
        settings=settings,
    )


def drops(data: PlotData, unit: str) -> list[Measure]:
    """One metric a task: the drop against fp16, in ``pp`` (percentage points) or ``percent`` of its accuracy."""
    label, suffix = {"pp": ("percentage points below fp16", ""), "percent": ("% of fp16's accuracy", ", relative")}[
        unit
    ]
    return [
        Measure(f"{task}_drop_{unit}", f"{task}{suffix}", label, hint="below 0: better than fp16", signed=True)
        for task in data.tasks
    ]


def _metrics(data: PlotData, task: str) -> str:
    found = (row[f"{task}_metric"] for row in data.rows if row.get(task) is not None)
    return " or ".join(dict.fromkeys((metric or "metric not known").removesuffix(",none") for metric in found))
