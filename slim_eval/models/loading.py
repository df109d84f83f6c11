"""Models as Transformers loads and saves them, and what can happen then, in one place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from slim_eval.errors import SlimEvalError
from slim_eval.models import experts, gguf
from slim_eval.models.source import ModelSource

#: What it raises for a model that it cannot deal with, or that needs what is not there.
FAILURES = (ValueError, RuntimeError, OSError, ImportError, KeyError, EOFError, AttributeError, TypeError)

_EXPERTS_LACK = "lacks weights of experts, which would be random"
_POSITIONS = 16  # whose logits are in float32 at a time
#: Masks of causal attention, which old versions saved with the weights of GPT-J, GPT-Neo and others. Transformers
#: ignores them for GPT-2 and GPT-NeoX alone.
_MASK = re.compile(r"(^|\.)attn\.(attention\.)?(masked_)?bias$")
#: The remedy if weights do not match.
MATCHING = "use a checkpoint that matches the architecture in its config.json"


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


def load(checkpoint: Path, *, kind: Any = None, **options: Any) -> Any:
    """A causal language model with all weights of a checkpoint and no others, ready for inference.

    Transformers initialises missing weights at random and only logs it: here that is a SlimEvalError that names them.
    `kind` is the class that loads it, AutoModelForCausalLM by default. The weights of a GGUF file become plain ones.
    """
    from transformers import AutoModelForCausalLM

    kind, place, is_gguf = kind or AutoModelForCausalLM, checkpoint, gguf.is_gguf(checkpoint)
    fused: AbstractContextManager[None] = nullcontext()
    if is_gguf:
        place, options = checkpoint.parent, {**options, "gguf_file": checkpoint.name}
    else:
        fused = experts.split_while_loading(checkpoint, trust_remote_code=bool(options.get("trust_remote_code")))
    with fused:
        try:
            model, info = kind.from_pretrained(
                str(place), output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        except RuntimeError as error:
            if is_gguf:
                raise
            if names := experts.odd_ones(checkpoint):  # it cannot fuse experts of different kinds
                raise SlimEvalError(f"{checkpoint}: {_EXPERTS_LACK}: {_shown(names)}", MATCHING) from error
            raise
    if (told := mismatch(info)) is not None:
        if not is_gguf and (odd := experts.odd_ones(checkpoint)):
            told = f"{_EXPERTS_LACK}: {_shown(odd)}"
        raise SlimEvalError(f"{checkpoint}: {told}", MATCHING)
    return model.eval()


def mismatch(info: Mapping[str, Any]) -> str | None:
    """How the weights of a checkpoint differ from those of its model, by what Transformers says of the loading.

    None if they do not: Transformers names no keys that the model's class ignores, and masks do not count.
    """
    for key, words in (
        ("missing_keys", "lacks weights of the model, which would be random"),
        ("mismatched_keys", "contains weights of another shape than the model's"),
        ("unexpected_keys", "contains weights that the model does not have"),
    ):
        found = (str(each[0] if isinstance(each, tuple) else each) for each in info.get(key) or ())
        if names := sorted(name for name in found if key != "unexpected_keys" or not _MASK.search(name)):
            return f"{words}: {_shown(names)}"
    return None


def tokenizer(source: ModelSource, *, trust_remote_code: bool) -> Any:
    """The tokenizer of a model; its files are downloaded if they are not on this machine."""
    if source.path is None and source.base is not None:
        return tokenizer(source.base, trust_remote_code=trust_remote_code)
    place = source.path or source.pickled
    name, revision = (source.name, source.revision) if place is None else (str(place), None)
    return tokenizer_of(name, revision, trust_remote_code=trust_remote_code)


def tokenizer_of(name: str, revision: str | None = None, *, trust_remote_code: bool) -> Any:
    """The tokenizer of a folder or hub id; one of `FAILURES` if there is none that Transformers can load."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)


def _shown(names: list[str]) -> str:
    """The first names of weights, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def require_weights(checkpoint: Path, architecture: str | None, *, trust_remote_code: bool) -> None:
    """Refuse, with a SlimEvalError, a checkpoint that does not have all weights of its model, or has others.

    Names and shapes decide; no weight is read. It is for engines that let such a checkpoint pass, as vLLM does. What
    Transformers cannot load is not refused: they may know it.
    """
    import transformers

    options = {"trust_remote_code": trust_remote_code, "device_map": "meta"}
    with suppress(*FAILURES):
        load(checkpoint, kind=getattr(transformers, architecture or "", None), **options)


def token_logprobs(model: Any, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
    """Log-probabilities, in nats, of each token of a text but its first, given those before it, from a loaded model.

    The softmax is computed in float32, whatever the model computes in.
    """
    import torch

    found = []
    with torch.inference_mode():
        for ids in token_ids:
            row = torch.tensor([list(ids)], device=model.device)
            logits, following = model(row).logits[0, :-1], row[0, 1:, None]
            values = list[float]()
            # In small parts: copies of all logits would raise the peak of memory, which is measured.
            for part, wanted in zip(logits.split(_POSITIONS), following.split(_POSITIONS), strict=True):
                values += part.float().log_softmax(-1).gather(-1, wanted.to(part.device))[:, 0].tolist()
            found.append(values)
    return found


def save(model: Any, folder: Path, **options: Any) -> None:
    """Save a model without its generation settings.

    Transformers refuses to save those that contradict each other, as older models' do; nothing here generates by them.
    The caller copies the file as it came.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()
    model.save_pretrained(folder, **options)
    (folder / "generation_config.json").unlink(missing_ok=True)
