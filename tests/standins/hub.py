"""A model hub on the loopback interface, served from local folders, for the real `huggingface_hub` and `datasets`.

    root/models/{owner}/{name}/…      root/datasets/{owner}/{name}/…      one folder per repository, any files
    root/models/{owner}/{name}@v1/…   the same repository at branch or tag `v1`

It accepts pushes with its token, and serves what those libraries request: repository info, tree, paths-info, refs,
and `resolve` with HEAD, GET, ETag, commit and byte ranges. `LoopbackHub.fail` makes a repository gated, missing,
broken, silent, truncated or cut off.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_CHUNK = 1 << 16
_RESOLVE = re.compile(r"^/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")
_API = re.compile(
    r"^/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+?)"
    r"(?:/(?P<call>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.*))?|/(?P<refs>refs))?/?$"
)


class FaultKind(Enum):
    """What can be wrong with a repository."""

    GATED = "gated"  # metadata is public, files answer 401 without a token and 403 with one
    MISSING = "missing"  # as if there were no such repository
    ERROR = "error"  # HTTP 500
    STALL = "stall"  # no answer until the hub closes
    TRUNCATED = "truncated"  # half a file, announced as if it were whole
    CUT = "cut"  # the connection closes half-way through a file


@dataclass
class Fault:
    """A fault, the files it affects, and for how many requests.

    Attributes:
        kind: What goes wrong.
        path: Pattern of the files concerned; repository info counts as the empty path.
        times: How many requests it spoils; None for all of them.
    """

    kind: FaultKind
    path: str = "*"
    times: int | None = None

    def strikes(self, path: str, method: str) -> bool:
        """Whether the request for `path` is spoiled; counts down `times`."""
        if self.times == 0 or not fnmatch.fnmatch(path, self.path):
            return False
        if self.kind in (FaultKind.CUT, FaultKind.TRUNCATED) and method != "GET":
            return False  # they spoil what is sent
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(frozen=True)
class _Repo:
    kind: str
    id: str
    folder: Path

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def commit(self) -> str:
        stamps = [f"{p.relative_to(self.folder)}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in self.files()]
        return hashlib.sha1("\n".join(stamps).encode()).hexdigest()

    def entry(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
        return {"type": "file", "path": name, "oid": blob_id(path), "size": path.stat().st_size}

    def info(self, gated: bool) -> dict[str, Any]:
        names = [path.relative_to(self.folder).as_posix() for path in self.files()]
        return {
            "_id": hashlib.sha1(self.id.encode()).hexdigest()[:24],
            "id": self.id,
            "author": self.id.split("/")[0],
            "sha": self.commit(),
            "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z",
            "private": False,
            "disabled": False,
            "gated": "auto" if gated else False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": name} for name in names],
        }


_blob_ids: dict[tuple[Path, int, int], str] = {}


def blob_id(path: Path) -> str:
    """Git's name of a file's content, which the hub serves as ETag."""
    stat = path.stat()
    key = (path, stat.st_size, stat.st_mtime_ns)
    if key not in _blob_ids:
        digest = hashlib.sha1(f"blob {stat.st_size}\0".encode())
        with path.open("rb") as content:
            for chunk in iter(lambda: content.read(_CHUNK), b""):
                digest.update(chunk)
        _blob_ids[key] = digest.hexdigest()
    return _blob_ids[key]


@dataclass
class LoopbackHub:
    """Serve `root` until the context is left.

    Attributes:
        root: Folder with `models/` and `datasets/`.
        token: A token that opens gated repositories.
        requests: Every request served, as ``METHOD path``, in order.
        uploaded: Large files that were pushed, by their SHA-256.
    """

    root: Path
    token: str = "hf_loopback"
    requests: list[str] = field(default_factory=list)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    _faults: dict[str, list[Fault]] = field(default_factory=dict)
    _server: ThreadingHTTPServer | None = None
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> LoopbackHub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.closing.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    @property
    def url(self) -> str:
        """Address of the hub, without a trailing slash."""
        assert self._server is not None, "the hub is not running"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, cache_dir: Path) -> dict[str, str]:
        """Variables that send `huggingface_hub` and `datasets` here, with all caches below `cache_dir`.

        They must be set before either library is imported: both read them once.
        """
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache_dir),
            "HF_HUB_CACHE": str(cache_dir / "hub"),
            "HF_DATASETS_CACHE": str(cache_dir / "datasets"),
            "HF_MODULES_CACHE": str(cache_dir / "modules"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def fail(self, repo_id: str, fault: Fault) -> None:
        """From now on, requests for a repository meet `fault`."""
        self._faults.setdefault(repo_id, []).append(fault)

    def heal(self, repo_id: str) -> None:
        """Remove all faults of a repository."""
        self._faults.pop(repo_id, None)

    def repo(self, kind: str, repo_id: str, revision: str) -> _Repo | None:
        """The repository at a revision (branch, tag or commit); None if it does not exist."""
        folder = self.root / kind / repo_id
        for candidate in (folder.with_name(f"{folder.name}@{revision}"), folder, *folder.parent.glob("*@*")):
            if not candidate.is_dir() or candidate.name.split("@")[0] != folder.name:
                continue
            repo = _Repo(kind, repo_id, candidate)
            if candidate.name.endswith(f"@{revision}") or revision in (repo.commit(), "main"):
                return repo
        return None

    def exists(self, kind: str, repo_id: str) -> bool:
        """Whether the repository exists at any revision."""
        return (self.root / kind / repo_id).is_dir()

    def fault(self, repo_id: str, path: str, method: str) -> FaultKind | None:
        """The fault that a request for a file meets, which is counted."""
        return next((fault.kind for fault in self._faults.get(repo_id, ()) if fault.strikes(path, method)), None)

    def gated(self, repo_id: str) -> bool:
        """Whether a repository is gated at all."""
        return any(fault.kind is FaultKind.GATED for fault in self._faults.get(repo_id, ()))


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: tests read `LoopbackHub.requests`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        raw = self._body()
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.command in ("POST", "PUT") and self._pushed(path, raw):
            return
        body = raw.decode()
        match = _API.match(path) or _RESOLVE.match(path)
        if match is None:
            self._refuse(404, "EntryNotFound", "Not found")
            return
        parts = {key: value or "" for key, value in match.groupdict().items()}
        parts["kind"] = parts["kind"] or "models"
        file = parts["path"] if match.re is _RESOLVE else ""
        fault = self.hub.fault(parts["repo"], file, self.command)
        if self._spoiled(fault, is_file=match.re is _RESOLVE):
            return
        repo = self._find(parts)
        if repo is None:
            return
        if match.re is _RESOLVE:
            self._send_file(repo, file, fault)
        else:
            self._send_api(repo, parts, body or url.query)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(self.headers.get("Content-Length") or 0)
            return self.rfile.read(length) if length else b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _pushed(self, path: str, body: bytes) -> bool:
        """Answer a request of a push; return whether it was one. Without the hub's token it is refused."""
        if path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
            return True
        if path.startswith("/lfs/"):
            self.hub.uploaded[path.removeprefix("/lfs/")] = body
            self._send_json({})
            return True
        match = re.match(r"^(?:/api/repos/create|/api/models/([^/]+/[^/]+)/(preupload|commit)/main)$", path)
        batch = re.match(r"^/([^/]+/[^/]+)\.git/info/lfs/objects/batch$", path)
        if match is None and batch is None:
            return False
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._refuse(401, "", "Invalid username or password.")
            return True
        if batch is not None:
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            self._send_json({"transfer": "basic", "objects": objects})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            (self.hub.root / "models" / name).mkdir(parents=True, exist_ok=True)
            self._send_json({"url": f"{self.hub.url}/{name}", "id": name})
        elif match is not None and match[2] == "preupload":
            files = [
                {
                    "shouldIgnore": False,
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                }
                for each in json.loads(body)["files"]
            ]
            self._send_json({"files": files})
        elif match is not None:
            folder = self.hub.root / "models" / match[1]
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    content = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    content = self.hub.uploaded[value["oid"]]
                else:
                    continue
                (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
                (folder / value["path"]).write_bytes(content)
            oid = _Repo("models", match[1], folder).commit()
            self._send_json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{match[1]}/commit/{oid}"})
        return True

    def _spoiled(self, fault: FaultKind | None, *, is_file: bool) -> bool:
        """Answer for a fault that leaves nothing to serve; return whether it did."""
        authorization = self.headers.get("Authorization")
        if fault is FaultKind.STALL:
            self.hub.closing.wait(600)
            self.close_connection = True
            return True
        if fault is FaultKind.ERROR:
            self._refuse(500, "", "Internal Error - this hub is told to fail")
            return True
        if fault is FaultKind.MISSING:
            self._refuse_repo()
            return True
        if fault is FaultKind.GATED and is_file and authorization != f"Bearer {self.hub.token}":
            self._refuse(403 if authorization else 401, "GatedRepo", "Access to this repository is restricted.")
            return True
        return False

    def _find(self, parts: Mapping[str, str]) -> _Repo | None:
        repo = self.hub.repo(parts["kind"], parts["repo"], parts["revision"] or "main")
        if repo is None and self.hub.exists(parts["kind"], parts["repo"]):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {parts['revision']}")
        elif repo is None:
            self._refuse_repo()
        return repo

    def _refuse_repo(self) -> None:
        # The hub does not reveal to anonymous users whether a repository exists: 401 for them, 404 for the rest.
        authorized = self.headers.get("Authorization") is not None
        self._refuse(404 if authorized else 401, "RepoNotFound", "Repository not found")

    def _send_api(self, repo: _Repo, parts: Mapping[str, str], arguments: str) -> None:
        if parts["refs"]:
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commit()}
            self._send_json({"branches": [branch], "tags": [], "converts": []})
        elif parts["call"] == "tree":
            self._send_tree(repo, parts["path"], recursive="recursive=true" in arguments.lower())
        elif parts["call"] == "paths-info":
            self._send_json(self._paths_info(repo, arguments))
        else:
            self._send_json(repo.info(self.hub.gated(repo.id)))

    def _send_tree(self, repo: _Repo, below: str, *, recursive: bool) -> None:
        folder = (repo.folder / below).resolve()
        if not (folder.is_dir() and folder.is_relative_to(repo.folder.resolve())):
            self._refuse(404, "EntryNotFound", f"{below} does not exist on 'main'")
            return
        paths = sorted((repo.folder / below).rglob("*") if recursive else (repo.folder / below).iterdir())
        self._send_json([repo.entry(path) for path in paths])

    def _paths_info(self, repo: _Repo, arguments: str) -> list[dict[str, Any]]:
        # `huggingface_hub` sends a form in some versions and JSON in others.
        asked = json.loads(arguments)["paths"] if arguments.startswith("{") else parse_qs(arguments).get("paths", [])
        paths = [repo.folder / name.strip("/") for name in ([asked] if isinstance(asked, str) else asked)]
        return [repo.entry(path) for path in paths if path.exists()]

    def _send_file(self, repo: _Repo, name: str, fault: FaultKind | None) -> None:
        path = (repo.folder / name).resolve()
        if not (path.is_file() and path.is_relative_to(repo.folder.resolve())):
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit()})
            return
        content = path.read_bytes()
        start, stop = self._range(len(content))
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        if fault is FaultKind.TRUNCATED and self.command == "GET":
            stop = start + (stop - start) // 2
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{blob_id(path)}"')
        self.send_header("X-Repo-Commit", repo.commit())
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is FaultKind.CUT:
            stop = start + (stop - start) // 2
            self.close_connection = True
        self.wfile.write(content[start:stop])

    def _range(self, size: int) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return 0, size
        return int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)

    def _send_json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
