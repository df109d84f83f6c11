"""Every error slim-eval raises on purpose, as one tree.

    SlimEvalError                 exit 1   a cause in one line, a remedy in one line
    ├── UsageError                exit 2   the command or configuration asks for something that cannot be
    ├── MissingPackageError       exit 1   a stage needs a package that its interpreter does not have
    ├── HubError                  exit 1   the model hub refused, or could not be reached
    ├── QuantizationError         exit 1   no usable checkpoint came out
    ├── EngineError               exit 1   the engine did not start, or stopped
    ├── BenchmarkError            exit 1   a benchmark could not make a number
    ├── NothingFitsError          exit 1   no configuration does all that was asked for
    ├── ResultFileError           exit 1   a result file that cannot be read
    │   └── NewerResultError      exit 1   it was written by a newer slim-eval
    ├── BusyError                 exit 1   another run is at work in the same folder
    ├── NotReadyError             exit 1   `slim-eval doctor` found what stands in the way of a run
    ├── RunFailedError            exit 1   the run ended, but some of its stages failed
    ├── GateFailedError           exit 3   a --fail-if condition holds beyond doubt
    └── GateUndecidedError        exit 4   a --fail-if condition cannot be decided from these measurements

Errors of other packages are translated into these where that package is called, with ``raise … from``. What a message
quotes may hold a secret: every one is redacted here, before anything can show or write it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from slim_eval.utils import did_you_mean
from slim_eval.utils.redaction import redact

#: The command that installs everything a GPU machine needs, and the one for a machine without a GPU.
INSTALL_GPU = 'pip install "slim-eval[all]"'
INSTALL_CPU = 'pip install "slim-eval[cpu]"'
INSTALL = f"{INSTALL_GPU} (without a GPU: {INSTALL_CPU})"


_FEW_NAMES = 12


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from, the outermost first."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__


class SlimEvalError(Exception):
    """An expected failure: shown as one line of cause and one of remedy, without a traceback.

    Args:
        cause: What is wrong, naming the thing at fault.
        remedy: What the user can do about it; empty where nothing helps.
    """

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause = redact(cause)
        self.remedy = redact(remedy)
        super().__init__(self.cause)

    def __str__(self) -> str:
        return f"{self.cause}\n{self.remedy}" if self.remedy else self.cause


class UsageError(SlimEvalError):
    """The command line or configuration asks for something that cannot be."""

    exit_code = 2


class MissingPackageError(SlimEvalError):
    """A stage needs a package that is not installed in its interpreter.

    Args:
        package: Name of the module that is missing.
        purpose: What it is needed for.
        install: The exact command that installs it.
    """

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed", f"install it: {install}")


class HubError(SlimEvalError):
    """The model hub does not know the model, refuses it, or cannot be reached."""


class QuantizationError(SlimEvalError):
    """Quantization did not produce a checkpoint that loads and generates."""


class EngineError(SlimEvalError):
    """The inference engine did not start, or stopped while it was needed."""


class BenchmarkError(SlimEvalError):
    """A benchmark could not make a number that means something."""


class NothingFitsError(SlimEvalError):
    """The question was well put, but no configuration satisfies every constraint."""


class ResultFileError(SlimEvalError):
    """A result file is truncated, is not JSON, or is not of a known schema."""


class NewerResultError(ResultFileError):
    """A result file of a newer schema: sound, and not to be overwritten for not being understood."""


class BusyError(SlimEvalError):
    """Another process holds what this one would write."""


class NotReadyError(SlimEvalError):
    """`slim-eval run` would not work here."""


class RunFailedError(SlimEvalError):
    """The run is over and one or more of its stages failed."""


class GateFailedError(SlimEvalError):
    """A condition of `slim-eval compare --fail-if` holds beyond doubt."""

    exit_code = 3


class GateUndecidedError(SlimEvalError):
    """A condition of `slim-eval compare --fail-if` cannot be decided: measure more, or what was not measured."""

    exit_code = 4


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The refusal of a name that no member of a seam has; the remedy names the members, or the nearest of many."""
    names = list(known)
    remedy = f"known: {', '.join(names)}" if len(names) <= _FEW_NAMES else did_you_mean(name, names)
    return UsageError(f"unknown {kind} {name!r}", remedy)
