"""A study as one file: `slim-eval export --archive`, and reading it on another machine in place of a folder.

The archive contains the records, samples and noise floors, which are redacted when they are written; no logs. The same
results make the same file, byte for byte. Of an archive only such files are unpacked, whatever else it contains.
"""

from __future__ import annotations

import gzip
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from slim_eval.errors import ResultFileError, UsageError
from slim_eval.results.store import find_results
from slim_eval.utils import atomic_path

#: Endings of the files of a study.
_ENDINGS = (".json", ".samples.jsonl.gz")
_ARCHIVES = (".tar.gz", ".tgz")
#: Unpacked archives of this process, by path, time and size; removed when it ends: samples are read when needed.
_unpacked: dict[tuple[Path, int, int], tempfile.TemporaryDirectory[str]] = {}


def is_archive(path: Path) -> bool:
    """Whether a path is meant to be an archive of results."""
    return path.name.lower().endswith(_ARCHIVES)


def write_archive(folders: Sequence[Path], archive: Path) -> int:
    """Write the results below folders into one archive; returns the number of files in it.

    Raises:
        UsageError: The name has another ending, a folder has no results, or the archive cannot be written.
    """
    if not is_archive(archive):
        raise UsageError(f"--archive {archive}: not the name of an archive", "let it end in .tar.gz")
    files: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir() or not any(variant.records for variant in find_results(folder).variants):
            raise UsageError(
                f"{folder}: contains no results", "name a folder with results, such as --output-dir of a run"
            )
        root = folder.resolve()
        # A variant's own folder keeps the name of the model's folder above it.
        top = root.parent.name if any(root.glob("*.json")) else ""
        for file in sorted(_files_of(root)):
            files[str(PurePosixPath(top, root.name, file.relative_to(root).as_posix()))] = file
    try:
        with (
            atomic_path(archive) as temporary,
            temporary.open("wb") as raw,
            # Neither times nor owners, so that the same results make the same file.
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name, file in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = file.stat().st_size
                with file.open("rb") as content:
                    tar.addfile(entry, content)
    except OSError as error:
        cause = f"--archive {archive}: cannot be written ({error.strerror or error})"
        raise UsageError(cause, "name another file") from error
    return len(files)


def _files_of(root: Path) -> Iterator[Path]:
    for file in root.rglob("*"):
        parts = file.relative_to(root).parts
        if file.name.endswith(_ENDINGS) and file.is_file() and not any(part.startswith(".") for part in parts):
            yield file


def unpacked(path: Path) -> Path:
    """A folder of results as it is; of an archive, a temporary folder with its content, which this process removes.

    Raises:
        ResultFileError: The archive is damaged.
    """
    if not is_archive(path) or not path.is_file():
        return path
    stat = path.stat()
    key = (path.resolve(), stat.st_mtime_ns, stat.st_size)
    if key not in _unpacked:
        folder = tempfile.TemporaryDirectory(prefix="slim-eval-")
        try:
            with tarfile.open(path, mode="r:gz") as tar:
                for entry in tar:
                    _unpack(tar, entry, Path(folder.name))
        except (OSError, EOFError, tarfile.TarError) as error:
            folder.cleanup()
            raise ResultFileError(f"{path}: not a readable archive ({error})", "export it again") from error
        _unpacked[key] = folder
    return Path(_unpacked[key].name)


def _unpack(tar: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    """Write one file of an archive; links, devices, other files and places outside of the folder are left out."""
    name = PurePosixPath(entry.name)
    if not entry.isfile() or not name.name.endswith(_ENDINGS) or name.is_absolute() or ".." in name.parts:
        return
    content = tar.extractfile(entry)
    if content is None:
        return
    target = folder.joinpath(*name.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while block := content.read(1 << 20):
            file.write(block)
