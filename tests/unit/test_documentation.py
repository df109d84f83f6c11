"""README.md and the pages of docs/: their commands run and print what is shown, and every option has its place."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from slim_eval.cli import _leaves, _option
from slim_eval.config import RunConfig, option_info
from tests import documentation
from tests.documentation import Example, examples, output, pages, parsed, reason_not_to_run, shows
from tools import site

ROOT = Path(__file__).parents[2]
EXAMPLES = [example for page in pages() for example in examples(page)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return documentation.example_folder(tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize("example", [e for e in EXAMPLES if "…" not in "".join(e.words)], ids=str)
def test_commands_have_the_options_that_pages_give_them(example: Example) -> None:
    parsed(example.words)


@pytest.mark.large
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_commands_print_what_pages_show(example: Example, folder: Path) -> None:
    """A command without output on the page must only succeed. Shown output is never left unchecked."""
    reason = reason_not_to_run(example.words, folder)
    if reason is not None:
        assert example.shown is None, f"{example}: its output cannot be checked ({reason}): mark the block as text"
        pytest.skip(reason)
    status, printed = output(example.words, folder)
    assert status == example.status, printed
    if example.shown is not None:
        fix = f"{example} prints something else; `python -m tests.documentation` writes it anew:\n{printed}"
        assert shows(example.shown, printed), fix


def test_every_kind_of_command_is_shown_with_its_output() -> None:
    kinds = {example.words[0] for example in EXAMPLES if example.shown is not None}
    assert {"recommend", "compare", "doctor", "run"} <= kinds
    assert {example.status for example in EXAMPLES} == {0, 1, 3, 4}


def _python_names() -> Iterator[tuple[str, str]]:
    for page in pages():
        for line, name in documentation.python_names(page.read_text(encoding="utf-8")):
            yield f"{page.relative_to(ROOT).as_posix()}:{line}", name


@pytest.mark.parametrize(("place", "name"), sorted(set(_python_names())))
def test_python_blocks_use_names_that_exist(place: str, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute), place


@pytest.mark.parametrize(
    "member", re.findall(r"^\| \w+ \| `([\w.]+)` \|$", (ROOT / "docs/plugins.md").read_text(), re.M)
)
def test_registries_of_the_plugin_page_exist(member: str) -> None:
    module, _, name = member.rpartition(".")
    assert hasattr(getattr(importlib.import_module(module), name), "register")


@pytest.mark.parametrize("leaf", list(_leaves(RunConfig)), ids=lambda leaf: "-".join(leaf[0]))
def test_every_option_of_run_is_in_the_command_reference(leaf: tuple[tuple[str, ...], FieldInfo, str]) -> None:
    (option,) = _option(*leaf).annotation.__metadata__
    flag = option_info(leaf[0][-1], leaf[1])["flag"].split("/")[0]
    run = site.command_reference().partition("## slim-eval run\n")[2].partition("\n## ")[0]
    (row,) = [line for line in run.splitlines() if line.startswith(f"| `{flag}`")]
    assert " ".join(option.help.split()) in row.replace("\\|", "|")
    if isinstance(option.show_default, str):
        assert f"`{option.show_default}`" in row


def test_every_command_is_in_the_command_reference() -> None:
    from slim_eval.cli import app

    titles = re.findall(r"(?m)^## slim-eval (\S+)$", site.command_reference())
    assert len(titles) == len(app.registered_commands)


def test_links_and_pictures_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", readme) if "://" not in target]
    assert len(targets) > 10
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_the_readme_is_two_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 140


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/metrics.md", "constraints.txt"])
def test_files_that_others_expect_exist(name: str) -> None:
    assert (ROOT / name).exists()


# What finds commands and output.

PAGE = """
```bash
SLIM_EVAL_PLUGINS=x.py slim-eval run --models demo \\
    --precision int8 && slim-eval analyze   # tables
make demo
```

- item

  ```console
  $ slim-eval compare A B --fail-if "x>1pp"
  first
  …
  $ echo $?
  3
  ```
"""


def test_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = [(e.words, e.shown, e.status) for e in examples(page)]
    assert found == [
        (("run", "--models", "demo", "--precision", "int8"), None, 0),
        (("analyze",), None, 0),
        (("compare", "A", "B", "--fail-if", "x>1pp"), ("first", "…"), 3),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (("a", "b"), "a\nb", True),
        (("a",), "a\nb", False),
        (("a", "…"), "a\nb\nc", True),
        (("…", "c"), "a\nb\nc", True),
        (("a", "…", "c"), "a\nb", False),
        (("took … s",), "took 3.1 s", True),
        (("took … s",), "took\n3.1 s", False),
        ((), "a", False),
    ],
)
def test_output_is_compared_line_by_line(shown: tuple[str, ...], printed: str, same: bool) -> None:
    assert shows(shown, printed) is same


@pytest.mark.parametrize("words", [("run", "--models", "demo", "--no-such-option"), ("compare", "A"), ("nothing",)])
def test_wrong_commands_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match=r"No such|Missing|such"):
        parsed(words)


# The site's hooks.


@pytest.mark.parametrize(
    ("html", "fetched"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ('<link rel="stylesheet" href="//fonts.example/css">', ["//fonts.example/css"]),
        ('<img src="http://images.example/a.png">', ["http://images.example/a.png"]),
        ('<a href="https://example.org">link</a><img src="a.png"><script src="assets/b.js"></script>', []),
    ],
)
def test_pages_that_fetch_from_other_hosts_are_found(html: str, fetched: list[str]) -> None:
    assert site.fetched_elsewhere(html) == fetched
