"""The command line: parse, make a config, make one call, return an exit code. Nothing else.

Exit codes: 0 done, 1 a run that failed wholly or in part, 2 a command that asks for something that cannot be, 3 a
--fail-if condition holds, 4 one cannot be decided, 130 interrupted.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BeforeValidator, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperCommand

from slim_eval._version import __version__
from slim_eval.config import (
    AnalysisConfig,
    CompareConfig,
    Config,
    DoctorConfig,
    ImportConfig,
    NoiseConfig,
    RecommendConfig,
    RunConfig,
)
from slim_eval.errors import SlimEvalError, UsageError
from slim_eval.execution.signals import resume_command, terminated_as_interrupted
from slim_eval.plugins import load_plugins
from slim_eval.utils import did_you_mean
from slim_eval.utils.parsing import split_list
from slim_eval.utils.redaction import show_traceback

_TASK_BATCH_SIZE = "--accuracy-batch-size-"

app = typer.Typer(
    name="slim-eval",
    help="Which small language model, at which precision, should go into production, and how sure can you be?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _ListCommand(TyperCommand):
    """A command whose list options also take several words, and that has a batch size option for any task."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring ``--accuracy-tasks mmlu gsm8k`` and ``--accuracy-batch-size-mmlu 8`` to options that exist."""
        lists = {flag for option in self.params if option.multiple for flag in option.opts}
        known = {flag for option in self.params for flag in option.opts}
        return list(super().parse_args(ctx, list(_normalise(args, lists, known))))


def _normalise(args: Sequence[str], lists: set[str], known: set[str]) -> Iterator[str]:
    words = iter(args)
    repeated: str | None = None  # the list option whose further words are being read
    for word in words:
        flag, has_value, value = word.partition("=")
        if flag.startswith(_TASK_BATCH_SIZE) and flag not in known:
            size = value if has_value else next(words, "")
            yield from ("--accuracy-batch-size-task", f"{flag.removeprefix(_TASK_BATCH_SIZE)}={size}")
            repeated = None
        elif word.startswith("-") and word != "-":
            yield word
            repeated = flag if flag in lists else None
            if repeated and not has_value and (first := next(words, None)) is not None:
                yield first
        elif repeated:
            yield from (repeated, word)
        else:
            yield word


def _leaves(config: type[Config], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo, str]]:
    """Every field of a config and of the configs in it: where it stands, the field, its help panel."""
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            yield from _leaves(field.annotation, (*path, name))
        else:
            yield (*path, name), field, config.panel


def _option(path: tuple[str, ...], field: FieldInfo, panel: str) -> inspect.Parameter:
    required = field.default is PydanticUndefined
    default, shown = _default(field)
    info = (
        typer.Argument(help=field.description, metavar=path[-1].upper())
        if _extra(field).get("argument")
        else typer.Option(
            _flag(path, field),
            *filter(None, [_extra(field).get("short")]),
            help=field.description,
            rich_help_panel=panel,
            show_default=shown,
            envvar=_extra(field).get("env"),
        )
    )
    return inspect.Parameter(
        "__".join(path),
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[_command_line_type(field), info],
    )


def _flag(path: tuple[str, ...], field: FieldInfo) -> str:
    return str(_extra(field).get("flag") or "--" + path[-1].replace("_", "-"))


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _default(field: FieldInfo) -> tuple[Any, bool | str]:
    """The default that Typer is given, and how ``--help`` shows it."""
    value = field.default
    if isinstance(value, tuple):
        return None, " ".join(item.value if isinstance(item, Enum) else str(item) for item in value) or False
    if isinstance(value, dict):
        return None, False
    return value, value is not None


def _command_line_type(field: FieldInfo) -> Any:
    if _is_list(field):
        return list[str] | None if field.default is not PydanticUndefined else list[str]
    plain = next(part for part in (get_args(field.annotation) or (field.annotation,)) if part is not type(None))
    return str | None if plain is SecretStr else (plain | None if field.default is None else plain)


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (tuple, dict)


def _configured(config: type[Config]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a config; it is called with the config made from those that were given."""
    leaves = {"__".join(path): (path, field) for path, field, _ in _leaves(config)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def call(ctx: typer.Context, **values: Any) -> None:
            given = {
                leaves[name]: value
                for name, value in values.items()
                if (source := ctx.get_parameter_source(name)) is not None and source.name != "DEFAULT"
            }
            command(_build(config, given))

        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *(_option(*leaf) for leaf in _leaves(config))]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        call.__doc__ = command.__doc__
        return call

    return decorate


def _build(config: type[Config], given: dict[tuple[tuple[str, ...], FieldInfo], Any]) -> Config:
    """The config with the given values at their places.

    Raises:
        UsageError: A value is out of range or unknown; one line for the first of them.
    """
    tree: dict[str, Any] = {}
    for (path, field), value in given.items():
        branch = tree
        for part in path[:-1]:
            branch = branch.setdefault(part, {})
        branch[path[-1]] = _joined(field, value)
    try:
        return config.model_validate(tree)
    except ValidationError as error:
        raise _usage_error(config, error) from None


def _joined(field: FieldInfo, value: Any) -> Any:
    """The items of a list option, split where its field splits texts."""
    if get_origin(field.annotation) is not tuple or not any(isinstance(m, BeforeValidator) for m in field.metadata):
        return value
    try:
        return [item for text in value for item in split_list(text)]
    except ValueError as error:
        raise UsageError(f"{' '.join(value)!r}: {error}", "close the quotation") from None


def _usage_error(config: type[Config], error: ValidationError) -> UsageError:
    first = error.errors()[0]
    for path, field, _ in _leaves(config):
        if tuple(first["loc"][: len(path)]) == path:
            flag = _flag(path, field).split("/")[0]
            wrong = first.get("input")
            if first["type"] == "enum":
                known = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
                return UsageError(f"{flag}: unknown value {wrong!r}", f"known: {', '.join(known)}")
            if first["type"] in ("too_short", "missing") or wrong in ("", ()):
                return UsageError(f"{flag}: nothing was given", f"name at least one: {flag} VALUE")
            # Our own validators name what is wrong; the value itself may be a secret.
            reason = first["msg"].removeprefix("Value error, ")
            what = reason if first["type"] == "value_error" else f"{wrong!r}: {reason}"
            return UsageError(f"{flag}: {what}", f"see slim-eval --help: {field.description}")
    where = "".join(f"{part}: " for part in first["loc"]) if first["type"] != "value_error" else ""
    return UsageError(f"{where}{first['msg'].removeprefix('Value error, ')}", "give one of them")


@app.callback(invoke_without_command=True)
def _program(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"slim-eval {__version__}")
        raise typer.Exit


@app.command("run", cls=_ListCommand)
@_configured(RunConfig)
def run(config: RunConfig) -> None:
    """Quantize and measure models: latency, memory, energy and accuracy of every precision.

    Results are written below --output-dir the moment each benchmark ends. The same command again does only what is
    missing. Lists are taken space-separated in quotes,
    comma-separated, or as a repeated option.
    """
    from slim_eval.evaluator import evaluate

    evaluate(config).raise_for_failures()


@app.command("analyze", cls=_ListCommand)
@_configured(AnalysisConfig)
def analyze(config: AnalysisConfig) -> None:
    """Turn results into tables and plots."""
    from slim_eval.analysis import analyze as analyze_results
    from slim_eval.execution.console import show_analysis

    show_analysis(analyze_results(config))


@app.command("noise", cls=_ListCommand)
@_configured(NoiseConfig)
def noise(config: NoiseConfig) -> None:
    """Measure the same variant twice: how much its numbers differ though nothing changed. `analyze` and `compare` use it.

    Takes the options of `run`. The floor is written to {output-dir}/{model}/{model}_noise/noise.json.
    """
    from slim_eval.evaluator import measure_noise
    from slim_eval.execution.console import show_noise

    report = measure_noise(config)
    show_noise(report.floors)
    report.raise_for_failures()


@app.command("compare")
@_configured(CompareConfig)
def compare(config: CompareConfig) -> None:
    """Compare two variants, or two folders of them: every metric and task with interval, ratio and verdict.

    With --fail-if it is a gate for CI: exit 3 where a condition holds beyond doubt, 4 where it cannot be decided.
    """
    from slim_eval.analysis.compare.folders import compare_folders
    from slim_eval.execution.console import show_comparison

    report = compare_folders(config)
    show_comparison(report, config)
    report.raise_for_conditions()


@app.command("import")
@_configured(ImportConfig)
def import_(config: ImportConfig) -> None:
    """Turn results of lm-eval, vllm bench or guidellm into variants that `analyze` and `compare` read."""
    from slim_eval.execution.console import show_import
    from slim_eval.results.importers import import_results

    report = import_results(config)
    show_import(report)
    report.raise_for_problems()


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Where results are written.")] = Path("outputs/demo-run"),
    quantized_models_dir: Annotated[Path, typer.Option(help="Where quantized checkpoints are kept.")] = Path(
        "quantized-models/demo-run"  # made from fewer samples than a run's, which would refuse them
    ),
    analysis_dir: Annotated[Path, typer.Option(help="Where tables and plots are written.")] = Path(
        "analysis_results/demo-run"
    ),
    engine: Annotated[str, typer.Option(help="Engine that serves the model.")] = "transformers",
    force: Annotated[
        bool, typer.Option("--force", help="Measure everything again and replace earlier results.")
    ] = False,
) -> None:
    """The whole job on the embedded model: fp16, int8 and int4, all benchmarks, then the analysis. A few minutes."""
    from slim_eval.analysis import analyze as analyze_results
    from slim_eval.evaluator import evaluate
    from slim_eval.execution.console import show_analysis
    from slim_eval.execution.demo_run import demo_config

    report = evaluate(demo_config(output_dir, quantized_models_dir, engine, force=force))
    if report.variants:
        analysis = analyze_results(AnalysisConfig(input_dir=output_dir, output_dir=analysis_dir))
        show_analysis(analysis, table=False)  # the run has just shown it
    report.raise_for_failures()


@app.command("recommend", cls=_ListCommand)
@_configured(RecommendConfig)
def recommend(config: RecommendConfig) -> None:
    """Which measured configuration to deploy: the pick, how sure, and the one measurement that could change the answer.

    Exit 1 where none keeps every constraint; it then says which one to relax, and by how much.
    """
    from slim_eval.analysis.recommend.recommendation import advise
    from slim_eval.execution.console import show_advice

    advice = advise(config)
    show_advice(advice, as_json=config.as_json)
    advice.raise_if_nothing_fits()


@app.command("doctor", cls=_ListCommand)
@_configured(DoctorConfig)
def doctor(config: DoctorConfig) -> None:
    """Would `slim-eval run` work here? Packages, hardware, hub and W&B, with the command that mends each gap.

    Nothing heavy is imported and nothing is downloaded; it takes a few seconds. Exit 1 where a run would not work.
    """
    from slim_eval.doctor import examine
    from slim_eval.doctor.rendering import show

    report = examine(config)
    show(report, as_json=config.as_json)
    report.raise_for_problems()


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; expected errors become one line of cause and one of remedy.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if args is None else args) or ["--help"]
    click_error: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException, of whichever click Typer uses
    try:
        if not {"-h", "--help"} & set(words):  # looking for plugins takes about as long as the help
            load_plugins()
        with terminated_as_interrupted():
            code = app(words, standalone_mode=False)
    except SlimEvalError as error:
        _complain(error)
        return error.exit_code
    except click_error as error:
        text = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        _complain(UsageError(text.replace("Value error, ", ""), _help_hint(words)))
        return UsageError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        if (command := resume_command(words)) is not None:
            typer.echo(f"  what was measured is kept; to go on: {command}", err=True)
        return 130
    finally:
        sys.excepthook = show_traceback  # an unexpected error may quote a secret; Typer has set a hook of its own
    return code if isinstance(code, int) else 0


def _help_hint(words: Sequence[str]) -> str:
    commands = {command.name or "" for command in app.registered_commands} | {"demo"}
    if words and not words[0].startswith("-") and words[0] not in commands:
        return did_you_mean(words[0], commands)
    return f"see: slim-eval {words[0] + ' ' if words and words[0] in commands else ''}--help"


def _complain(error: SlimEvalError) -> None:
    typer.secho(f"error: {error.cause}", fg="red", err=True)
    if error.remedy:
        typer.echo(f"  fix: {error.remedy}", err=True)
