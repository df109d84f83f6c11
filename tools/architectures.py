"""The table of docs/architectures.md: what `slim-eval run --dry-run` says of each architecture, at each precision.

    python -m tools.architectures MODELS [--check]

MODELS is a folder with one small checkpoint per architecture. Nothing is quantized: the checks before every run
(`slim_eval.models.checkpoint_checks`) decide. --check only compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from slim_eval import models
from slim_eval.config import RunConfig
from slim_eval.errors import SlimEvalError
from slim_eval.execution.plan import intended_use, served_schemes
from slim_eval.models import checkpoint_checks

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
PRECISIONS = ("fp16", "int8", "int4", "fp8")
_BEGIN, _END = "<!-- made by tools/architectures.py -->", "<!-- end -->"


def rows(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name of each model, and what a run says of it at each of the `PRECISIONS`."""
    for model in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield model.name, [answer(model, precision) for precision in PRECISIONS]


def answer(model: Path, precision: str) -> str:
    """``accepted``, with what is noted, or the line with which a run is refused; the model is called by its folder."""
    config = RunConfig(models=(str(model),), precision=(precision,))
    try:
        source = models.resolve(str(model))
        schemes = served_schemes([precision], models.describe_config(source.config_dir).scheme)
        findings = checkpoint_checks.examine(source, intended_use(config, source, schemes))
    except SlimEvalError as error:
        return f"refused: {_plain(error.cause, model)}"
    if refusal := next((finding for finding in findings if finding.is_refusal), None):
        return f"refused: {_plain(refusal.cause, model)}"
    named = "accepted" if schemes == [precision] else f"accepted as {schemes[0]}"
    notes = dict.fromkeys(re.sub(r"^\w+: ", "", _plain(finding.cause, model)) for finding in findings)
    return "; ".join((named, *notes))


def _plain(cause: str, model: Path) -> str:
    """A cause without the path of the model."""
    text = cause.replace(f"{model.parent}/", "").replace("|", "\\|")
    return text.replace(str(models.DEMO), models.DEMO)


def table(folder: Path) -> str:
    """The table in Markdown: equal answers at all precisions stand once."""
    lines = [f"| model | {' | '.join(PRECISIONS)} |", f"|---|{'---|' * len(PRECISIONS)}"]
    for name, answers in rows(folder):
        shown = answers if len(set(answers)) > 1 else [answers[0], *["as fp16"] * (len(answers) - 1)]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def page(folder: Path) -> str:
    """The page with the table made anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    return f"{before}{_BEGIN}\n\n{table(folder)}\n\n{_END}{rest.split(_END)[1]}"


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    made = page(Path(sys.argv[1]))
    if "--check" in sys.argv:
        return int(made != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
