"""Models as Transformers loads and saves them, and what can happen then, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slim_eval.errors import SlimEvalError
from slim_eval.models.source import ModelSource

#: What it raises for a model that it cannot deal with, or that needs what is not there.
FAILURES = (ValueError, RuntimeError, OSError, ImportError, KeyError, EOFError)


def reason(error: BaseException) -> str:
    """Class and first line of an error of another package."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def remedy(error: BaseException) -> str:
    """The remedy if a model could not be loaded."""
    if "trust_remote_code" in str(error):
        return "review the Python code that comes with it, then add --trust-remote-code"
    if isinstance(error, ImportError):
        return "install the package that it names"
    return "check that transformers knows this architecture"


def load(checkpoint: Path, **options: Any) -> Any:
    """A causal language model with all weights of a checkpoint and no others, ready for inference.

    Transformers initialises missing weights at random and only logs it: here that is a SlimEvalError that names them.
    """
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(str(checkpoint), output_loading_info=True, **options)
    for key, words in (
        ("missing_keys", "lacks weights of the model, which would be random"),
        ("mismatched_keys", "contains weights of another shape than the model's"),
        ("unexpected_keys", "contains weights that the model does not have"),
    ):
        if names := sorted(str(found[0] if isinstance(found, tuple) else found) for found in info.get(key) or ()):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            cause = f"{checkpoint}: {words}: {', '.join(names[:3])}{more}"
            raise SlimEvalError(cause, "use a checkpoint that matches the architecture in its config.json")
    return model.eval()


def tokenizer(source: ModelSource, *, trust_remote_code: bool) -> Any:
    """The tokenizer of a model; its files are downloaded if they are not on this machine."""
    from transformers import AutoTokenizer

    place = source.path or source.pickled
    name, revision = (source.name, source.revision) if place is None else (str(place), None)
    return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)


def save(model: Any, folder: Path, **options: Any) -> None:
    """Save a model without its generation settings.

    Transformers refuses to save those that contradict each other, as older models' do; nothing here generates by them.
    The caller copies the file as it came.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()
    model.save_pretrained(folder, **options)
    (folder / "generation_config.json").unlink(missing_ok=True)
