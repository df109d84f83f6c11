"""The command line: parse, make a config, make one call, show the result, return an exit code.

Exit codes: 0 success, 1 a run that failed wholly or in part, 2 an invalid command, 3 a --fail-if condition is met, 4
one is inconclusive, 130 interrupted.
"""

from __future__ import annotations

import inspect
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from pydantic import BeforeValidator, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console
from typer.core import TyperCommand

from slim_eval import config as configs
from slim_eval._version import __version__
from slim_eval.errors import SlimEvalError, UsageError
from slim_eval.plugins import load_plugins
from slim_eval.utils import did_you_mean
from slim_eval.utils.parsing import split_list
from slim_eval.utils.redaction import redact, show_traceback

if TYPE_CHECKING:
    from slim_eval.analysis import AnalysisReport
    from slim_eval.results.exchange import ExportReport
    from slim_eval.results.importers import ImportReport

_INTERRUPTED = 130
_TASK_BATCH_SIZE = "--accuracy-batch-size-"

app = typer.Typer(
    name="slim-eval",
    help="Which small language model should be deployed, at which precision, and with what confidence?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _ListCommand(TyperCommand):
    """A command whose list options accept several words, and that has a batch-size option per task."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite ``--accuracy-tasks mmlu gsm8k`` and ``--accuracy-batch-size-mmlu 8`` to options that exist."""
        lists = {flag for option in self.params if option.multiple for flag in option.opts}
        known = {flag for option in self.params for flag in option.opts}
        rewritten: list[str] = []
        words = iter(args)
        repeated: str | None = None  # the list option whose further words are being read
        for word in words:
            flag, has_value, value = word.partition("=")
            if flag.startswith(_TASK_BATCH_SIZE) and flag not in known:
                size = value if has_value else next(words, "")
                rewritten += ("--accuracy-batch-size-task", f"{flag.removeprefix(_TASK_BATCH_SIZE)}={size}")
                repeated = None
            elif word.startswith("-") and word != "-":
                rewritten.append(word)
                repeated = flag if flag in lists else None
                if repeated and not has_value and (first := next(words, None)) is not None:
                    rewritten.append(first)
            else:
                rewritten += (repeated, word) if repeated else (word,)
        return list(super().parse_args(ctx, rewritten))


def _leaves(
    config: type[configs.Config], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo, str]]:
    """Every field of a config and of the configs in it: its path, the field, its help panel."""
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, configs.Config):
            yield from _leaves(field.annotation, (*path, name))
        else:
            yield (*path, name), field, config.panel


def _option(path: tuple[str, ...], field: FieldInfo, panel: str) -> inspect.Parameter:
    default: Any = field.default
    shown: bool | str = default is not None  # how --help shows it
    if default is PydanticUndefined:
        default = inspect.Parameter.empty
    elif isinstance(default, (tuple, dict)):
        shown = " ".join(default) or False
        default = None
    told = configs.option_info(path[-1], field)
    if "argument" in told:
        info: Any = typer.Argument(help=field.description, metavar=path[-1].upper())
    else:
        flags = [flag for flag in (told["flag"], told["short"]) if flag]
        info = typer.Option(
            *flags, help=field.description, rich_help_panel=panel, show_default=shown, envvar=told["env"]
        )
    kind: Any = next(part for part in (get_args(field.annotation) or (field.annotation,)) if part is not type(None))
    if get_origin(field.annotation) in (tuple, dict):
        kind = list[str]
    elif kind is SecretStr:
        kind = str
    annotation: Any = Annotated[kind | None if default is None else kind, info]
    return inspect.Parameter("__".join(path), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _command(config: type[configs.Config]) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Make a function the command of its name: it is called with the config built from the given options."""
    leaves = {"__".join(leaf[0]): leaf for leaf in _leaves(config)}

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        def call(ctx: typer.Context, **values: Any) -> None:
            tree: dict[str, Any] = {}
            for name, value in values.items():
                if (source := ctx.get_parameter_source(name)) is None or source.name == "DEFAULT":
                    continue
                path, field, _ = leaves[name]
                branch = tree
                for part in path[:-1]:
                    branch = branch.setdefault(part, {})
                is_text_list = any(isinstance(entry, BeforeValidator) for entry in field.metadata)
                if get_origin(field.annotation) is tuple and is_text_list:
                    try:
                        value = [item for text in value for item in split_list(text)]
                    except ValueError as error:
                        raise UsageError(f"{' '.join(value)!r}: {error}", "close the quotation marks") from None
                branch[path[-1]] = value
            try:
                built = config.model_validate(tree)
            except ValidationError as error:
                raise _usage_error(config, error) from None
            command(built)

        options = {name: _option(*leaf) for name, leaf in leaves.items()}
        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        call.__signature__ = inspect.Signature([context, *options.values()])  # type: ignore[attr-defined]
        call.__annotations__ = {"ctx": typer.Context, **{name: option.annotation for name, option in options.items()}}
        call.__doc__ = command.__doc__
        # Words after a list option would be taken from the arguments.
        has_arguments = any("argument" in configs.option_info(path[-1], field) for path, field, _ in leaves.values())
        app.command(command.__name__.rstrip("_"), cls=None if has_arguments else _ListCommand)(call)
        return command

    return decorate


def _usage_error(config: type[configs.Config], error: ValidationError) -> UsageError:
    """The first of the invalid or unknown values, by the name of its option."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    for path, field, _ in _leaves(config):
        if tuple(first["loc"][: len(path)]) == path:
            flag = configs.option_info(path[-1], field)["flag"].split("/")[0]
            wrong = first.get("input")
            if first["type"] == "enum":
                known = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
                return UsageError(f"{flag}: unknown value {wrong!r}", f"known: {', '.join(known)}")
            if first["type"] in ("too_short", "missing") or wrong in ("", ()):
                return UsageError(f"{flag}: no value was given", f"give at least one value: {flag} VALUE")
            # Our own validators name what is wrong; the value itself may be a secret.
            what = reason if first["type"] == "value_error" else f"{wrong!r}: {reason}"
            return UsageError(f"{flag}: {what}", f"see slim-eval --help: {field.description}")
    location = "".join(f"{part}: " for part in first["loc"]) if first["type"] != "value_error" else ""
    remedy = "give only one of them" if "cannot be combined" in reason else "add it, or leave the other out"
    return UsageError(f"{location}{reason}", remedy)


@app.callback(invoke_without_command=True)
def _program(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"slim-eval {__version__}")
        raise typer.Exit


@_command(configs.RunConfig)
def run(config: configs.RunConfig) -> None:
    """Quantize models and measure latency, memory, energy and accuracy at each precision.

    Each benchmark's results are written to --output-dir when it ends. Rerunning the command does only the missing work.
    Lists are given space-separated in quotes, comma-separated, or by repeating the option.
    """
    from slim_eval.evaluator import evaluate

    evaluate(config).raise_for_failures()


@_command(configs.AnalysisConfig)
def analyze(config: configs.AnalysisConfig) -> None:
    """Create tables, figures and a report from results."""
    from slim_eval.analysis import analyze as analyze_results

    _show_analysis(analyze_results(config))


@_command(configs.NoiseConfig)
def noise(config: configs.NoiseConfig) -> None:
    """Measure the same variant several times, each in a fresh process, to learn which differences are noise.

    Accepts the options of `run`; repeats are short, as --target-ci stops each. The noise floor is written to
    {output-dir}/{model}/{model}_noise/noise.json; `analyze` and `compare` use it.
    """
    from slim_eval.evaluator import measure_noise

    measure_noise(config).raise_for_failures()


@_command(configs.CompareConfig)
def compare(config: configs.CompareConfig) -> None:
    """Compare two variants, or two folders of them: interval, ratio and verdict for each metric and task.

    With --fail-if, it is a gate for CI: exit 3 if the whole 95 % interval meets a condition, 4 if it is inconclusive.
    """
    from slim_eval.analysis.compare import ci, formats
    from slim_eval.analysis.compare.folders import compare_folders

    summary = ci.summary_file() if config.github_summary else None
    try:
        report = compare_folders(config)
    except SlimEvalError as error:
        if config.junit is not None:
            ci.write_junit(config.junit, config.fail_if, error)
        raise
    if config.junit is not None:
        ci.write_junit(config.junit, config.fail_if, report)
    if summary is not None:
        ci.append_summary(summary, report)
    if config.as_json or config.as_markdown:
        sys.stdout.write(formats.to_json(report) if config.as_json else formats.to_markdown(report))
    else:
        _print(formats.renderable(report))
    report.raise_for_conditions()


@_command(configs.ImportConfig)
def import_(config: configs.ImportConfig) -> None:
    """Import results of other tools (lm-eval, vllm bench, guidellm, sglang, llama-bench, …) as variants."""
    from slim_eval.results.importers import import_results

    _show_files(import_results(config), "not imported")


@_command(configs.ExportConfig)
def export(config: configs.ExportConfig) -> None:
    """Export accuracy results in the schema of Every Eval Ever, validated by its package, or a study as one archive."""
    from slim_eval.results.exchange import export_results

    _show_files(export_results(config), "not exported")


@_command(configs.CardConfig)
def card(config: configs.CardConfig) -> None:
    """Make the model card of a quantized checkpoint: recovery per task with interval and verdict, and its metadata.

    With --push, checkpoint and card become one commit in a repository of the hub (HF_TOKEN).
    """
    from slim_eval.analysis.card import make_card

    made = make_card(config)
    if made.path is None:
        sys.stdout.write(made.text)
    else:
        _print(f"written: {made.path}")
    if made.url is not None:
        _print(redact(f"pushed: {made.url}"))


@_command(configs.DemoConfig)
def demo(config: configs.DemoConfig) -> None:
    """Run every benchmark on the embedded model at fp16, int8 and int4, then analyze the results; takes minutes.

    With --real, the model is SmolLM2-135M-Instruct.
    """
    from slim_eval.analysis import analyze as analyze_results
    from slim_eval.analysis.tables import verdict_table

    if config.real:
        from slim_eval import real_demo

        report = real_demo.measure(config)
    else:
        from slim_eval.evaluator import evaluate

        report = evaluate(config.run(), with_verdict=False)
    if report.variants:
        analysis = analyze_results(configs.AnalysisConfig(input_dir=config.output_dir, output_dir=config.analysis_dir))
        _show_remarks(analysis)
        if analysis.verdict is not None:  # the last thing on the screen
            _print(verdict_table.renderable(analysis.verdict))
    report.raise_for_failures()


@_command(configs.RecommendConfig)
def recommend(config: configs.RecommendConfig) -> None:
    """Recommend a variant to deploy, with the confidence and the one measurement that could change the answer.

    Exit 1 if no variant satisfies every constraint; the output names the constraint to relax, and by how much.
    """
    from slim_eval.analysis.recommend.outcome import to_json
    from slim_eval.analysis.recommend.recommendation import recommend_from
    from slim_eval.analysis.recommend.wording import renderable

    found = recommend_from(config)
    if config.as_json:
        sys.stdout.write(to_json(found))
    else:
        _print(renderable(found))
    found.raise_if_nothing_fits()


@_command(configs.DoctorConfig)
def doctor(config: configs.DoctorConfig) -> None:
    """Check whether `slim-eval run` would work here, and list each problem (packages, hardware, hub, W&B) with its fix.

    Models that are given are checked as a run checks them. Loads no engine, downloads no weights and takes a few
    seconds. Exit 1 if a run would not work.
    """
    from slim_eval.doctor import examine
    from slim_eval.doctor.check_results import show

    report = examine(config)
    show(report, as_json=config.as_json)
    report.raise_for_problems()


@_command(configs.SetupConfig)
def setup(config: configs.SetupConfig) -> None:
    """Make the two environments that a run needs, one with vLLM and one with llm-compressor; `run` then uses them.

    They are kept in the user's cache folder (SLIM_EVAL_HOME chooses another). The command can be repeated: what is
    ready stays, and what was interrupted goes on.
    """
    from slim_eval import environments, power

    if config.remove:
        _print(f"removed, {environments.remove() / 2**30:.1f} GiB are free again")
        return
    kind: environments.Kind = "gpu" if config.gpu or (not config.cpu and power.list_gpus()) else "cpu"
    console = Console(stderr=True, highlight=False)
    with console.status(f"environments for a {kind.upper()}") as status:

        def show(text: str, *, done: bool = True) -> None:
            if done:
                console.print(text, markup=False)
            else:
                status.update(text)

        made = environments.set_up(kind, show)
    _print(f"slim-eval run now uses\n  {made.serve} to measure\n  {made.quantize} to quantize")


@_command(configs.SchemesConfig)
def schemes(config: configs.SchemesConfig) -> None:
    """List the schemes that --precision accepts, how each is made, and which engine runs it on this machine."""
    from slim_eval.doctor import scheme_list
    from slim_eval.doctor.facts import gather
    from slim_eval.environments import complete

    facts = gather(configs.DoctorConfig(engine=config.engine, serve_python=complete(config).serve_python))
    scheme_list.show(list(scheme_list.lines(facts)), as_json=config.as_json)


def _print(content: Any, *, err: bool = False, style: str | None = None) -> None:
    """Print a table or a line as it is, without markup."""
    Console(stderr=err, highlight=False).print(content, style=style, markup=False, soft_wrap=isinstance(content, str))


def _show_files(report: ImportReport | ExportReport, failed: str) -> None:
    """Print where the files are, what a reader must know of them, and what went wrong; raise for that."""
    if len(report.paths) == 1:
        _print(redact(f"written: {report.paths[0]}"))
    elif report.paths:
        _print(redact(f"written: {len(report.paths)} files in {os.path.commonpath(report.paths)}"))
    for note in report.notes:
        _print(redact(f"note: {note}"), err=True)
    for problem in report.problems:
        _print(redact(f"{failed}: {problem}"), err=True, style="red")
    report.raise_for_problems()


def _show_analysis(report: AnalysisReport) -> None:
    """The verdict, the evidence, then the caveats and where the files are: each once."""
    from slim_eval.analysis.tables import verdict_table
    from slim_eval.analysis.tables.serving_tables import levels_table
    from slim_eval.analysis.tables.terminal import comparison_table

    if report.verdict is not None:
        _print(verdict_table.renderable(report.verdict))
    _print(comparison_table(report.study))
    if report.study.served:
        _print(levels_table(report.study.served))
    _show_remarks(report)


def _show_remarks(report: AnalysisReport) -> None:
    for text in (*report.problems, *report.caveats):
        _print(redact(f"warning: {text}"), err=True, style="yellow")
    if report.paths:
        _print(f"written: {report.folder} ({len(report.paths)} files; start with report.html)")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; an expected error becomes one line of cause and one of remedy."""
    words = list(sys.argv[1:] if args is None else args) or ["--help"]
    click_error: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException, of whichever click Typer uses
    code: Any = _INTERRUPTED
    problem: SlimEvalError | None = None
    # SIGTERM and SIGHUP (a closed terminal) are handled like Ctrl-C, so that workers are stopped in order.
    is_main = threading.current_thread() is threading.main_thread()  # no other thread can handle signals
    numbers = (signal.SIGTERM, signal.SIGHUP) if is_main else ()
    previous = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        if not {"--help", "-h", "--version"}.intersection(words):  # which need no plugin, and answer sooner without
            load_plugins()
        code = app(words, standalone_mode=False)
    except SlimEvalError as error:
        problem = error
    except click_error as error:
        text = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        commands = {command.name or "" for command in app.registered_commands}
        remedy = "see: slim-eval --help"
        if words[0] in commands:
            remedy = f"see: slim-eval {words[0]} --help"
        elif not words[0].startswith("-"):
            remedy = did_you_mean(words[0], commands)
        problem = UsageError(text.replace("Value error, ", ""), remedy)
    except (KeyboardInterrupt, typer.Abort):
        pass
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.excepthook = show_traceback  # an unexpected error may quote a secret; Typer has set a hook of its own
    if problem is not None:
        typer.secho(f"error: {problem.cause}", fg="red", err=True)
        if problem.remedy:
            typer.echo(f"  fix: {problem.remedy}", err=True)
        return problem.exit_code
    if code == _INTERRUPTED:  # Typer turns KeyboardInterrupt into this code
        typer.echo("interrupted", err=True)
        if words[0] in ("run", "demo", "setup"):
            kept = "what is installed is" if words[0] == "setup" else "finished measurements are"
            typer.echo(f"  {kept} kept; to continue: {_resume_command(words)}", err=True)
    return code if isinstance(code, int) else 0


def _resume_command(words: Sequence[str]) -> str:
    """The command that does the remaining work of `words`: without an API key, and without what would start over."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--wandb-api-key":
            next(rest, None)
        elif word not in ("--force", "--requantize") and not word.startswith("--wandb-api-key="):
            kept.append(word)
    return shlex.join(["slim-eval", *kept])
