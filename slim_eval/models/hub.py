"""What the model hub can answer but the file asked for, translated in one place."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

from slim_eval.errors import HubError, UsageError, causes


@contextmanager
def hub_errors(repo: str, revision: str | None, kind: str = "model") -> Iterator[None]:
    """Translate what huggingface_hub raises for one repository.

    Raises:
        UsageError: The id is malformed, the revision unknown, or the repository has no ``config.json``.
        HubError: Everything else the hub or the network can do.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError(
            f"{repo!r} is neither a folder nor a {kind} id", "ids look like org/name; write a folder as ./folder"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(
            f"{kind} {repo!r} has no revision {revision!r}", "give a branch, tag or commit that its page lists"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _hub_error(repo, kind, error) from error
    except errors.EntryNotFoundError as error:
        raise UsageError(
            f"{kind} {repo!r} has no config.json on the hub: it is no Transformers checkpoint",
            "GGUF and adapter repositories cannot be measured: give the model they come from",
        ) from error
    except http_errors() as error:
        raise _hub_error(repo, kind, error) from error


def http_errors() -> tuple[type[Exception], ...]:
    """What a request to the hub raises: its refusals, and what goes wrong on the way to it."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        from httpx import HTTPError, InvalidURL
    except ImportError:  # huggingface_hub before 1.0 uses requests, whose errors are OSErrors
        return (HfHubHTTPError, OSError)
    return (HfHubHTTPError, OSError, HTTPError, InvalidURL)


def _hub_error(repo: str, kind: str, error: BaseException) -> HubError:
    """The one message for what the hub answered, found at the bottom of the chain of causes."""
    from huggingface_hub import constants, errors

    endpoint = without_credentials(constants.ENDPOINT)
    status: int | None = None
    gated = missing = offline = False
    for cause in causes(error):
        # Every HTTP error carries its response: the hub's, and where it gave up after retries the client's own.
        status = getattr(getattr(cause, "response", None), "status_code", status)
        gated = gated or isinstance(cause, errors.GatedRepoError)
        offline = offline or isinstance(cause, errors.OfflineModeIsEnabled)
        missing = missing or isinstance(cause, errors.RepositoryNotFoundError)
    deepest = _deepest(error)
    if isinstance(deepest, OSError) and _is_of_the_disk(deepest):
        return HubError(
            f"{kind} {repo!r} cannot be stored: {deepest.filename or constants.HF_HUB_CACHE}: {deepest.strerror}",
            "make room or mend the folder, or export HF_HOME with one on another disk",
        )
    if offline or (status is None and constants.HF_HUB_OFFLINE):
        return HubError(
            f"{kind} {repo!r} is not on this machine and the hub is switched off (HF_HUB_OFFLINE)",
            "unset HF_HUB_OFFLINE, or download it before",
        )
    if missing and not gated:
        status = 404  # also where it says 401, as it does to the nameless
    if status == 401 and not gated:
        return HubError(
            f"the hub does not accept your token (401, {endpoint})",
            f"make a new one at {endpoint}/settings/tokens and export it as HF_TOKEN",
        )
    if gated or status == 403:
        page = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        return HubError(
            f"{kind} {repo!r} is gated: the hub refuses access ({status or 403})",
            f"open {page}, accept its licence, then export HF_TOKEN with a token of that account",
        )
    if status in _ANSWERS:
        cause_text, remedy = _ANSWERS[status]
        return HubError(cause_text.format(kind=kind, repo=repo, endpoint=endpoint), remedy)
    reason = f"answered {status}" if status else f"{_way_it_failed(error)} ({reason_of(error)})"
    return HubError(
        f"the hub {endpoint} {reason} while looking for {kind} {repo!r}",
        "check the connection, proxy and HF_ENDPOINT and try again; a local folder needs no hub",
    )


def _is_of_the_disk(error: OSError) -> bool:
    """Whether a file could not be written; a connection that is not permitted names none."""
    return error.errno in _DISK or (isinstance(error, PermissionError) and error.filename is not None)


def _way_it_failed(error: BaseException) -> str:
    """Whether the hub was there at all: one that is breaks off, or delivers less than it announced."""
    deepest = _deepest(error)
    # The check of a file's size is an OSError without a number of the system.
    began = type(deepest).__name__ in _BROKEN_OFF or (type(deepest) is OSError and deepest.errno is None)
    return "broke off" if began else "cannot be reached"


def without_credentials(url: str) -> str:
    """An address without the user name and password that may stand in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_BROKEN_OFF = frozenset({"RemoteProtocolError", "ReadError", "ReadTimeout", "ChunkedEncodingError"})
_ANSWERS = {
    404: (
        "{kind} {repo!r} does not exist on {endpoint}, or is private",
        "check the spelling; a private one needs HF_TOKEN",
    ),
    429: ("the hub {endpoint} limits the rate of requests (429)", "wait some minutes, or export HF_TOKEN"),
}


def reason_of(error: BaseException) -> str:
    """The first line of the deepest cause: "Connection refused" says more than what is wrapped around it."""
    deepest = _deepest(error)
    return (str(deepest).strip().splitlines() or [type(deepest).__name__])[0]


def _deepest(error: BaseException) -> BaseException:
    *_, deepest = causes(error)
    return deepest
