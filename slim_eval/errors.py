"""All expected errors of slim-eval, as one tree with exit codes.

    SlimEvalError                 1, as all that have no other code here
    ├── UsageError                2
    ├── GateFailedError           3
    ├── GateUndecidedError        4
    ├── ResultFileError ── NewerResultError
    └── MissingPackageError, HubError, QuantizationError, EngineError, BenchmarkError, NothingFitsError, BusyError,
        NotReadyError, RunFailedError

Errors of other packages are translated into these where that package is called, with ``raise … from``. Messages
may quote a secret: they are redacted here, before they are shown or written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from slim_eval.utils import did_you_mean
from slim_eval.utils.redaction import redact

#: The command that installs everything a GPU machine needs.
INSTALL_GPU = 'pip install "slim-eval[all]"'
#: What makes environments for the stages, and what installs everything in this one.
INSTALL = f'slim-eval setup, or in one environment: {INSTALL_GPU} (without a GPU: pip install "slim-eval[cpu]")'


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the outermost first."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__


class SlimEvalError(Exception):
    """An expected failure, shown without a traceback: a line of cause, and one of remedy (empty if nothing helps)."""

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause = redact(cause)
        self.remedy = redact(remedy)
        super().__init__(self.cause)

    def __str__(self) -> str:
        return f"{self.cause}\n{self.remedy}" if self.remedy else self.cause


class UsageError(SlimEvalError):
    """The command line or configuration is invalid."""

    exit_code = 2


class MissingPackageError(SlimEvalError):
    """A stage (`purpose`) needs a package that its interpreter does not have; `install` is the exact command."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed", f"install it: {install}")


class HubError(SlimEvalError):
    """The model hub does not have the model, refuses access, or cannot be reached."""


class QuantizationError(SlimEvalError):
    """Quantization did not produce a checkpoint that loads and generates."""


class EngineError(SlimEvalError):
    """The inference engine did not start, or stopped too early."""


class BenchmarkError(SlimEvalError):
    """A benchmark has no valid result."""


class NothingFitsError(SlimEvalError):
    """The request is valid, but no variant satisfies every constraint."""


class ResultFileError(SlimEvalError):
    """A result file is truncated, not JSON, or of an unknown schema."""


class NewerResultError(ResultFileError):
    """A result file of a newer schema: valid, and not to be overwritten."""


class BusyError(SlimEvalError):
    """Another process uses the files that this one would write."""


class NotReadyError(SlimEvalError):
    """`slim-eval run` would not work here."""


class RunFailedError(SlimEvalError):
    """The run ended and one or more of its stages failed."""


class GateFailedError(SlimEvalError):
    """A condition of `slim-eval compare --fail-if` is met with confidence."""

    exit_code = 3


class GateUndecidedError(SlimEvalError):
    """A condition of `slim-eval compare --fail-if` cannot be decided: more measurements are needed."""

    exit_code = 4


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for an unregistered name; the remedy lists the known names, or the nearest of many."""
    names = list(known)
    remedy = f"known: {', '.join(names)}" if len(names) <= 12 else did_you_mean(name, names)  # 12 fit on a line
    return UsageError(f"unknown {kind} {name!r}", remedy)
