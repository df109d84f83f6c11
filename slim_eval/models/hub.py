"""The model hub: downloads of a model's files, and the translation of everything that huggingface_hub raises."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from slim_eval.errors import HubError, UsageError, causes
from slim_eval.utils import MIB, atomic_path

#: Called with the amount done, the total (None if unknown), and the unit.
Progress = Callable[[int, "int | None", str], None]
_CONFIG_FILE = "config.json"
_WATCH_EVERY_S = 1.0
_BEGINNING = 4 * MIB  # that is fetched of a large file at a time
#: Weights in sub-folders and `consolidated*` are second copies in other layouts.
_UNWANTED = ("*/*.safetensors", "consolidated*.safetensors")
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_BROKEN_OFF = frozenset({"RemoteProtocolError", "ReadError", "ReadTimeout", "ChunkedEncodingError"})


def settings() -> Any:
    """The module `huggingface_hub.constants`, which reads the variables that begin with HF_.

    Raises:
        UsageError: It rejects one, or the hub's address is none: huggingface_hub cannot be imported then.
    """
    try:
        from huggingface_hub import constants
    except ValueError as error:
        cause = f"huggingface_hub rejects a variable that begins with HF_: {error}"
        raise UsageError(cause, "fix or unset it; see: env | grep ^HF_") from error
    try:
        parts = urlsplit(constants.ENDPOINT)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number
        valid = False
    if not valid:
        cause = f"HF_ENDPOINT={without_credentials(constants.ENDPOINT)} is not a URL"
        raise UsageError(cause, "write it as https://huggingface.co, or unset it")
    return constants


@contextmanager
def hub_errors(repo: str, revision: str | None, kind: str = "model") -> Iterator[None]:
    """Translate what huggingface_hub raises for one repository.

    Raises:
        UsageError: The id is malformed, the revision unknown, the repository has no ``config.json``, or as `settings`.
        HubError: Every other failure of the hub or the network.
    """
    settings()
    from huggingface_hub import errors

    translated: tuple[type[Exception], ...] = (errors.EntryNotFoundError, *http_errors())
    try:
        yield
    except errors.HFValidationError as error:
        remedy = "ids look like org/name; write a folder as ./folder"
        raise UsageError(f"{repo!r} is neither a folder nor a {kind} id", remedy) from error
    except errors.RevisionNotFoundError as error:
        remedy = "give a branch, tag or commit listed on its page"
        raise UsageError(f"{kind} {repo!r} has no revision {revision!r}", remedy) from error
    except translated as error:
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            remedy = "give a checkpoint, an adapter or a repository with GGUF files"
            cause = f"{kind} {repo!r} has no config.json on the hub: it is not a Transformers checkpoint"
            raise UsageError(cause, remedy) from error
        raise HubError(*_cause_and_remedy(repo, kind, error)) from error


def http_errors() -> tuple[type[Exception], ...]:
    """The errors of a request to the hub: its refusals, and failures of the network."""
    from huggingface_hub.errors import HfHubHTTPError

    return (HfHubHTTPError, OSError, *client_errors())


def client_errors() -> tuple[type[Exception], ...]:
    """The errors of huggingface_hub's HTTP client: requests before version 1.0, then httpx, since 2.0 httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    base = next(each for each in HfHubHTTPError.__mro__ if each.__name__ == "HTTPError")
    return (base, sys.modules[base.__module__].InvalidURL)


def _cause_and_remedy(repo: str, kind: str, error: BaseException) -> tuple[str, str]:
    """One message for an answer of the hub, or for its absence."""
    from huggingface_hub import constants, errors

    endpoint = without_credentials(constants.ENDPOINT)
    chain = list(causes(error))

    def has(wanted: type[BaseException]) -> bool:
        return any(isinstance(cause, wanted) for cause in chain)

    status: int | None = None
    for cause in chain:
        # Every HTTP error has its response: the hub's, or the client's own after the last retry.
        status = getattr(getattr(cause, "response", None), "status_code", status)
    deepest, gated = chain[-1], has(errors.GatedRepoError)
    # A connection that is not permitted has no file name.
    unwritable = isinstance(deepest, PermissionError) and deepest.filename is not None
    if isinstance(deepest, OSError) and (deepest.errno in _DISK or unwritable):
        where = deepest.filename or constants.HF_HUB_CACHE
        remedy = "free space, make the folder writable, or export HF_HOME with a folder on another disk"
        return f"{kind} {repo!r} cannot be stored: {where}: {deepest.strerror}", remedy
    if has(errors.OfflineModeIsEnabled) or (status is None and constants.HF_HUB_OFFLINE):
        remedy = "unset HF_HUB_OFFLINE, or download it first"
        return f"{kind} {repo!r} is not on this machine, and HF_HUB_OFFLINE disables the hub", remedy
    if gated or (status == 403 and not has(errors.RepositoryNotFoundError)):
        page = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        remedy = f"open {page}, accept its licence, then export HF_TOKEN with a token of that account"
        return f"{kind} {repo!r} is gated: the hub refuses access ({status or 403})", remedy
    if has(errors.RepositoryNotFoundError) or status == 404:  # also for 401, the answer to requests without a token
        remedy = "check the spelling; a private one needs HF_TOKEN"
        return f"{kind} {repo!r} does not exist on {endpoint}, or is private", remedy
    if status == 401:
        remedy = f"create a new one at {endpoint}/settings/tokens and export it as HF_TOKEN"
        return f"the hub does not accept your token (401, {endpoint})", remedy
    if status == 429:
        return f"the hub {endpoint} limits the rate of requests (429)", "wait a few minutes, or export HF_TOKEN"
    # A hub that was reached may break off, or deliver less than announced: that is an OSError without errno.
    began = type(deepest).__name__ in _BROKEN_OFF or (type(deepest) is OSError and deepest.errno is None)
    failed = "did not complete its response" if began else "cannot be reached"
    reason = f"answered {status}" if status else f"{failed} ({reason_of(error)})"
    remedy = "check the connection, proxy and HF_ENDPOINT and try again; a local folder needs no hub"
    return f"the hub {endpoint} {reason} while looking for {kind} {repo!r}", remedy


def without_credentials(url: str) -> str:
    """An address without its user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def reason_of(error: BaseException) -> str:
    """The first line of the deepest cause: "Connection refused" is more useful than what wraps it."""
    *_, deepest = causes(error)
    return (str(deepest).strip().splitlines() or [type(deepest).__name__])[0]


def config_file(name: str, revision: str | None) -> Path:
    """``config.json`` of a model, from the hub, or from the cache if the hub cannot be reached."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    try:
        # One request, without the half minute of retries of a download.
        get_hf_file_metadata(hf_hub_url(name, _CONFIG_FILE, revision=revision))
    except http_errors() as error:
        cached = try_to_load_from_cache(name, _CONFIG_FILE, revision=revision)
        refused = isinstance(error, (errors.RevisionNotFoundError, errors.EntryNotFoundError))
        if refused or not isinstance(cached, str):
            raise
        return Path(cached)
    return Path(hf_hub_download(name, _CONFIG_FILE, revision=revision))


def optional_file(name: str, file: str, revision: str | None) -> Path | None:
    """A small file of a model that it may not have, from the cache or the hub; None without it, or without the hub."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(name, file, revision=revision)
    if cached is not None:
        return Path(cached) if isinstance(cached, str) else None  # the cache knows that there is none
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision))
        return Path(hf_hub_download(name, file, revision=revision))
    except http_errors():
        return None


def file_names(name: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit of a repository and the names of its files, of those in the cache if the hub cannot be reached.

    Raises what huggingface_hub raises: see `hub_errors`.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        found = HfApi().model_info(name, revision=revision)
    except http_errors() as error:
        if getattr(getattr(error, "response", None), "status_code", None) is not None:
            raise
        # The cache's layout is public: refs/{revision} has a commit, whose files are in snapshots/{commit}.
        cache = _cache_of(name)
        ref = cache / "refs" / (revision or "main")
        folder = cache / "snapshots" / (ref.read_text() if ref.is_file() else str(revision))
        if not folder.is_dir():
            raise
        return folder.name, [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    # Without a file: it notes in the cache which commit the revision is, for a run without the hub.
    snapshot_download(name, revision=revision, allow_patterns=[])
    return str(found.sha), [each.rfilename for each in found.siblings or ()]


def beginning(name: str, file: str, commit: str, length: Callable[[bytes], int | None]) -> Path:
    """A file of a model: itself if the cache has it, else a sparse copy, of its size, with only its beginning.

    `length` says how many bytes that is, once it was given enough of them. Raises what huggingface_hub raises.
    """
    from huggingface_hub import HfFileSystem, try_to_load_from_cache

    cached = try_to_load_from_cache(name, file, revision=commit)
    if isinstance(cached, str):
        return Path(cached)
    copy = _cache_of(name) / "slim-eval-headers" / commit / file
    if copy.is_file():
        return copy
    with HfFileSystem().open(f"{name}/{file}", "rb", revision=commit, block_size=_BEGINNING) as stream:
        data = b""
        while (count := length(data)) is None and (more := stream.read(_BEGINNING)):
            data += more
        size = int(stream.size)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(copy) as temporary, temporary.open("wb") as written:
        written.write(data[:count])
        written.truncate(max(size, len(data[:count])))
    return copy


def _cache_of(name: str) -> Path:
    """Folder of a model in the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")


def download_place(name: str) -> Path:
    """A path for the lock of a model's download: of several processes that share the hub's cache, one downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, ".locks", f"slim-eval--{name.replace('/', '--')}")


def download(name: str, revision: str | None, patterns: Sequence[str], progress: Progress) -> Path:
    """Download the files of a model that match the patterns, and return their folder; errors as `hub_errors`."""
    from huggingface_hub import snapshot_download, utils

    bars: Any = getattr(utils, "tqdm")  # noqa: B009  # public there, though not marked as exported

    class Silent(bars):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    # Only some versions of huggingface_hub report bytes in their progress bars.
    with hub_errors(name, revision), report_growth(_cache_of(name) / "blobs", progress):
        folder = snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_UNWANTED), tqdm_class=Silent
        )
    return Path(folder)


@contextmanager
def report_growth(folder: Path, progress: Progress) -> Iterator[None]:
    """Report, in MB, by how much a folder grows during the block: for libraries that write without progress."""

    def size() -> int:
        total = 0
        for path in folder.glob("*"):
            with suppress(OSError):  # renamed in the meantime
                total += path.stat().st_size
        return total

    before, ended = size(), threading.Event()

    def watch() -> None:
        reported = 0
        while not ended.wait(_WATCH_EVERY_S):
            if (written := size() - before) > reported:
                reported = written
                progress(written // 10**6, None, "MB")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
