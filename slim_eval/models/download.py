"""Brings a model's files from the hub to this machine, pinned to the commit that `models.resolve` saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slim_eval.errors import HubError
from slim_eval.models.growth import Progress, growing
from slim_eval.models.hub import hub_errors
from slim_eval.models.source import ALLOW_PICKLE, PICKLED, WANTED, ModelSource, has_safetensors, pickled_files

# Weights in sub-folders and `consolidated*` are second copies in other layouts.
_UNWANTED = ("*/*.safetensors", "consolidated*.safetensors")


def fetch(
    source: ModelSource,
    *,
    allow_pickle: bool = False,
    progress: Progress = lambda done, total, unit: None,
) -> ModelSource:
    """Bring the whole checkpoint to this machine.

    Args:
        source: A resolved model.
        allow_pickle: Whether pickled weights are fetched where the model has no others.
        progress: Told how many MB have come.

    Returns:
        The source as `fetched` gives it.

    Raises:
        HubError: The hub refused, broke off, or holds no weights that are taken.
    """
    if source.path is not None or source.pickled is not None:
        return source
    folder = _download(source, WANTED, progress)
    if has_safetensors(folder) or (allow_pickle and pickled_files(_download(source, PICKLED, progress))):
        return fetched(source, folder)
    raise HubError(
        f"model {source.name!r} has no weights in the safetensors format on the hub",
        "it has no pickled ones either" if allow_pickle else ALLOW_PICKLE,
    )


def fetched(source: ModelSource, folder: Path) -> ModelSource:
    """The source with its `path`, or with `pickled` where the weights in the folder have to be converted first."""
    return source.model_copy(update={"path" if has_safetensors(folder) else "pickled": folder})


def _download(source: ModelSource, patterns: tuple[str, ...], progress: Progress) -> Path:
    from huggingface_hub import constants, snapshot_download

    blobs = Path(constants.HF_HUB_CACHE, f"models--{source.name.replace('/', '--')}", "blobs")
    # The bars of huggingface_hub tell of bytes in some of its versions only.
    with hub_errors(source.name, source.revision), growing(blobs, progress):
        folder = snapshot_download(
            source.name,
            revision=source.revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(_UNWANTED),
            tqdm_class=_silent_tqdm(),
        )
    return Path(folder)


def _silent_tqdm() -> type[Any]:
    from huggingface_hub import utils

    base: Any = getattr(utils, "tqdm")  # noqa: B009  # public there, though not marked as exported

    def silent(self: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, *args, **{**kwargs, "disable": True})

    return type("Silent", (base,), {"__init__": silent})
