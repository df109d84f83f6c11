"""What a checkpoint was made from: its base model, by whatever says so."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from slim_eval import recognise
from slim_eval.models.hub import optional_file
from slim_eval.models.publish import QUANTIZATION_RECORD
from slim_eval.models.source import ModelSource
from slim_eval.utils import safe_json

CARD_FILE = "README.md"
_CARD_LIMIT = 10**6  # bytes


def base_model_of(source: ModelSource) -> str | None:
    """The model that a checkpoint was made from; None if neither slim-eval's own record nor the model's card says so.

    The card is ``README.md``, whose front matter names the ``base_model``. Of a model on the hub it is fetched; without
    the hub, nothing is known.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):  # no such record, or another file of that name
        return str(safe_json.read_json(source.config_dir / QUANTIZATION_RECORD)["model"])
    card: Path | None = source.config_dir / CARD_FILE
    if source.kind == "hub":
        card = optional_file(source.name, CARD_FILE, source.revision)
    if card is None or not card.is_file() or card.stat().st_size > _CARD_LIMIT:
        return None
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        front = metadata_load(card)
    except (OSError, ValueError, YAMLError):
        return None
    return recognise.base_model(front) if isinstance(front, dict) else None
