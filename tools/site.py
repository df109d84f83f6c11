"""MkDocs hooks of the documentation's site: pages that are generated, and a check that nothing is fetched.

The command reference is made from the command line itself, the list of decisions from their folder. ``CHANGELOG.md``,
``CONTRIBUTING.md`` and the published analysis are taken from where they are, outside ``docs``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

#: What pages link to outside ``docs``, and where the site has it.
_OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "analysis_results/published-a100/": "published-a100/",
}
_PUBLISHED = ROOT / "analysis_results" / "published-a100"


def on_config(config: Any) -> Any:
    """List every decision."""
    decisions: list[Any] = next(entry["Project"] for entry in config.nav if "Project" in entry)
    decisions[-1] = {"Decisions": ["decisions/index.md", *(f"decisions/{path.name}" for path in _decisions())]}
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and files from outside ``docs``."""
    from mkdocs.structure.files import File

    pages = {
        "reference/cli.md": command_reference(),
        "reference/python.md": _python_reference(),
        "decisions/index.md": _decision_list(),
        "changelog.md": _moved("CHANGELOG.md"),
        "contributing.md": _moved("CONTRIBUTING.md"),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for path in (_PUBLISHED / "report.html", *sorted((_PUBLISHED / "plots").glob("*.png"))):
        name = f"published-a100/{path.relative_to(_PUBLISHED).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links out of ``docs`` to where the site has their targets."""
    up = "../" * (page.file.src_uri.count("/") + 1)
    for name, target in _OUTSIDE.items():
        markdown = markdown.replace(f"]({up}{name}", f"]({up.removeprefix('../')}{target}")
    return markdown


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Fail if a browser that shows the page would fetch something from another host."""
    if fetched := fetched_elsewhere(output):
        from mkdocs.exceptions import PluginError

        raise PluginError(f"{page.file.src_uri} fetches from another host: {', '.join(fetched)}")
    return output


def fetched_elsewhere(html: str) -> list[str]:
    """Addresses on other hosts that a browser fetches to show a page: scripts, styles, fonts, images; not links."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            for name, value in attributes:
                fetches = name in ("src", "srcset", "poster", "data") or (tag == "link" and name == "href")
                if fetches and re.match(r"\s*(https?:)?//", value or ""):
                    found.append(value or "")

    Reader(convert_charrefs=True).feed(html)
    return found


def command_reference() -> str:
    """Every command with its help, arguments and options, as Markdown, from the command line itself."""
    import typer.main

    from slim_eval.cli import app

    group: Any = typer.main.get_command(app)
    parts = ["# Commands and options", *_LISTS, _EXIT_CODES]
    for name, command in group.commands.items():
        parts += [f"## slim-eval {name}", re.sub(r"(?<!`)(--[a-z][\w-]+)", r"`\1`", _paragraphs(command.help))]
        panels: dict[str, list[Any]] = {}
        for option in command.params:
            if not getattr(option, "hidden", False) and option.name != "help":
                panels.setdefault(getattr(option, "rich_help_panel", None) or "", []).append(option)
        for panel, options in panels.items():
            parts.append("\n".join([*([f"**{panel}**\n"] if panel else []), *_table(options)]))
    return "\n\n".join(parts) + "\n"


_LISTS = (
    "This page is generated from the command line; `slim-eval COMMAND --help` shows the same.",
    "Give a list as one quoted, space-separated string, comma-separated, as several words, or by repeating the option. "
    "A path with a space needs its own quotes: `--models \"'/my models/x' demo\"`. "
    "`slim-eval --version` prints the version, and `slim-eval --install-completion` installs shell completion.",
    "Every command ends with one of these exit codes:",
)
_EXIT_CODES = """\
| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the run failed wholly or in part (measured results are kept), `doctor` found problems, or no variant meets the \
limits of `recommend` |
| 2 | invalid command or options |
| 3 | a `--fail-if` condition is met |
| 4 | a `--fail-if` condition is inconclusive |
| 130 | interrupted |"""


_BAR = r"\|"  # within a cell of a table


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n"))


def _table(options: list[Any]) -> Iterator[str]:
    yield "| option | default | meaning |"
    yield "|---|---|---|"
    for option in options:
        names = option.opts if option.param_type_name == "option" else [option.name.upper()]
        names = [*names, *getattr(option, "secondary_opts", ())]
        meaning = " ".join((option.help or "").split())
        if variable := getattr(option, "envvar", None):
            meaning += f" `{variable}` has the same effect."
        shown = ", ".join(f"`{name}`" for name in names)
        yield f"| {shown} | {_default(option)} | {meaning.replace('|', _BAR)} |"


def _default(option: Any) -> str:
    shown = getattr(option, "show_default", False)
    if option.required:
        return "required"
    if isinstance(shown, str):
        return f"`{shown}`"
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    if not shown or option.default is None or callable(option.default):
        return ""
    return f"`{getattr(option.default, 'value', option.default)}`"


def _decisions() -> list[Path]:
    return sorted((DOCS / "decisions").glob("[0-9]*.md"))


def _decision_list() -> str:
    about = "Each page states a problem, the alternatives, the choice, and the test that enforces it."
    lines = ["# Decisions", "", about, ""]
    for path in _decisions():
        number, _, title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(": ")
        lines.append(f"- [{number}]({path.name}): {title}")
    return "\n".join(lines) + "\n"


def _python_reference() -> str:
    """A section for each public name, rendered from its docstring by mkdocstrings."""
    import slim_eval

    about = "Fields of the configs are the options of the [commands](cli.md), with underscores."
    parts = ["# Python API", f"The public names of the package `slim_eval`. {about}"]
    names = [name for name in slim_eval.__all__ if not name.startswith("_")]
    paths = [f"{getattr(slim_eval, name).__module__}.{name}" for name in names]
    parts += [f"::: {path}" for path in dict.fromkeys((*paths, *_RETURNED))]
    return "\n\n".join(parts) + "\n"


#: What public functions return, if it has no public name.
_RETURNED = ("slim_eval.execution.progress.RunReport", "slim_eval.analysis.AnalysisReport")


def _moved(name: str) -> str:
    """A file of the repository's root, with its links as pages of the site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", text)
