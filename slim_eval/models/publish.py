"""Publishing a checkpoint: on disk, written beside its final name, flushed and renamed; on the hub, as one commit.

{root}/{name}            complete from the moment it has this name
{root}/.{name}.tmp-…     being written, or left behind by a process that was killed
{root}/.{name}.old-…     an older checkpoint that is being replaced
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slim_eval.errors import HubError
from slim_eval.models.hub import http_errors, reason_of, settings
from slim_eval.models.source import WANTED
from slim_eval.utils import slug

#: Files that record how the checkpoint in their folder was made.
QUANTIZATION_RECORD = "quantization.json"
CONVERSION_RECORD = "conversion.json"


def copy_small_files(source: Path, folder: Path) -> None:
    """Copy the files of a checkpoint other than its weights, such as its tokenizer; existing files are kept."""
    wanted = {Path(pattern).suffix for pattern in WANTED} - {".safetensors"}
    for file in source.iterdir():
        own = file.name.endswith(".index.json") or file.name in {QUANTIZATION_RECORD, CONVERSION_RECORD}
        if file.suffix in wanted and file.is_file() and not own and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


@contextmanager
def new_checkpoint(final: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `final`; on success it is flushed and renamed, on failure it is removed.

    An older checkpoint of that name stays until the new one is complete.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    process = f"{slug(socket.gethostname())}-{os.getpid()}"
    temporary, old = (final.with_name(f".{final.name}.{kind}-{process}") for kind in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            _fsync(path)
        if final.exists():
            final.rename(old)
        temporary.rename(final)
        _fsync(final.parent)
        shutil.rmtree(old, ignore_errors=True)
        recover(final)  # again: a killed process may still have been alive at the first call
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover(final: Path) -> None:
    """Clean up after killed processes of this machine: remove half-written folders, restore one that was set aside."""
    for left in sorted(final.parent.glob(f".{final.name}.*-{slug(socket.gethostname())}-*")):
        process = left.name.rsplit("-", 1)[-1]
        if process.isdigit() and int(process) != os.getpid():
            try:
                os.kill(int(process), 0)
                continue
            except PermissionError:  # it is alive, and belongs to another user
                continue
            except ProcessLookupError:
                pass
        if left.name.startswith(f".{final.name}.old-") and not final.exists():
            left.rename(final)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def push_checkpoint(folder: Path, repo_id: str, card: str, *, private: bool = False) -> str:
    """Push a checkpoint and its card to the hub as one commit, and return the address of the commit.

    The repository is made if there is none. Hidden files and the card in the folder are left out.

    Raises:
        HubError: The hub cannot be reached or refuses it.
    """
    settings()
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    names = [path.relative_to(folder) for path in files]
    kept = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    operations = [CommitOperationAdd(name.as_posix(), folder / name) for name in kept]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    api = HfApi()
    refusals: tuple[type[Exception], ...] = (*http_errors(), errors.HFValidationError, ValueError)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message="Checkpoint and evaluation by slim-eval")
    except refusals as error:
        remedy = "export HF_TOKEN with a token that may write to this repository, and check its name"
        raise HubError(f"the hub did not accept {repo_id!r}: {reason_of(error)}", remedy) from error
    return str(commit.commit_url)
