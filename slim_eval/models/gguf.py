"""GGUF files, llama.cpp's format of models: what their header states, without a weight being read.

The header is read by the package ``gguf`` of llama.cpp's own authors, which is imported late.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from slim_eval.errors import MissingPackageError, UsageError

SUFFIX = ".gguf"
INSTALL = 'pip install "slim-eval[gguf]"'
_MAGIC = b"GGUF"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_HUB = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/?$")
_AGAIN = "it is incomplete or damaged: download the file again"


@dataclass(frozen=True)
class Header:
    """What a GGUF file states of its model; None for what it does not."""

    architecture: str  # as llama.cpp names it: ``llama``
    scheme: str  # ``q4_k_m``; ``gguf-f16`` for 16-bit floats, ``gguf-f32`` for 32-bit ones
    parameters: int
    weight_bytes: int  # of the tensors, in all parts
    bits_per_weight: float
    tensor_types: Mapping[str, float]  # type of the matrices -> its share of their weights, the largest first
    context: int | None  # tokens that the model was made for
    layers: int | None
    kv_heads: int | None
    head_size: int | None
    vocabulary: int | None
    tied: bool  # whether the output layer is the table of embeddings
    base_model: str | None  # on the hub

    @property
    def note(self) -> str:
        """What the file really contains, for its records: small models often have other types than their name says."""
        kinds = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in self.tensor_types.items())
        return f"the GGUF file stores {self.bits_per_weight:.2f} bits per weight ({kinds})"


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file."""
    return path.suffix.casefold() == SUFFIX


def files_in(folder: Path) -> list[Path]:
    """The GGUF models of a folder: their first parts, without parts for other modalities."""
    found = (path for path in folder.glob(f"*{SUFFIX}") if not path.name.casefold().startswith("mmproj"))
    return sorted(path for path in found if (part := _PART.search(path.name)) is None or int(part[1]) == 1)


def parts_of(file: Path) -> list[Path]:
    """All files of a model whose first one is given.

    Raises:
        UsageError: One is missing.
    """
    part = _PART.search(file.name)
    if part is None:
        return [file]
    stem = file.name[: part.start()]
    files = [file.with_name(f"{stem}-{number:05d}-of-{part[2]}{SUFFIX}") for number in range(1, int(part[2]) + 1)]
    if missing := [each.name for each in files if not each.is_file()]:
        raise UsageError(f"{file}: {len(missing)} of its {len(files)} parts are missing, e.g. {missing[0]}", _AGAIN)
    return files


def read(file: Path) -> Header:
    """The header of a model.

    Raises:
        UsageError: The file is not GGUF, truncated, or of an architecture that llama.cpp does not know.
        MissingPackageError: The package that reads it is not installed.
    """
    status = file.stat()
    return _read(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _read(file: Path, size: int, changed_ns: int) -> Header:
    """`read`, for one state of the file."""
    with file.open("rb") as stream:
        magic = stream.read(4)
    if magic != _MAGIC:
        pointer = ": it is a git-lfs pointer" if magic == b"vers" else ""
        raise UsageError(f"{file}: not a GGUF file{pointer}", "run `git lfs pull`" if pointer else "give another file")
    try:
        from gguf import GGUFReader
        from gguf.constants import MODEL_ARCH_NAMES, LlamaFileType
    except ImportError as error:
        raise MissingPackageError("gguf", "reading a GGUF file", INSTALL) from error
    weights: Counter[str] = Counter()
    count = held = 0
    names: set[str] = set()
    try:
        readers = [GGUFReader(part) for part in parts_of(file)]
        for reader in readers:
            for tensor in reader.tensors:
                names.add(str(tensor.name))
                count += int(tensor.n_elements)
                held += int(tensor.n_bytes)
                if len(tensor.shape) > 1:
                    weights[tensor.tensor_type.name.lower()] += int(tensor.n_elements)
        stated = {name: field for name, field in readers[0].fields.items() if not name.startswith("tokenizer.")}
        facts: dict[str, Any] = {name: field.contents() for name, field in stated.items()}
        tokens = readers[0].fields.get("tokenizer.ggml.tokens")
        vocabulary = None if tokens is None else len(tokens.data)
    except (ValueError, IndexError, KeyError, TypeError, struct.error, OverflowError, UnicodeDecodeError) as error:
        # Its arrays are views of the file: one that is too short does not have them.
        raise UsageError(f"{file}: the GGUF file ends early or its header is damaged", _AGAIN) from error
    if not weights:
        raise UsageError(f"{file}: the GGUF file has no weights", "give the file of a whole model")
    architecture = str(facts.get("general.architecture"))
    if architecture not in MODEL_ARCH_NAMES.values():
        cause = f"{file}: llama.cpp does not know the architecture {architecture!r}"
        raise UsageError(cause, "give a model of another architecture, or install a newer slim-eval[gguf]")
    main = weights.most_common(1)[0][0]
    kind = facts.get("general.file_type")
    known = {member.value: member.name.removeprefix("MOSTLY_").removeprefix("ALL_").lower() for member in LlamaFileType}
    scheme = known.get(kind, main) if isinstance(kind, int) else main

    def number(key: str) -> int | None:
        value = facts.get(f"{architecture}.{key}")
        return value if isinstance(value, int) else None  # some differ between layers

    width, heads = number("embedding_length"), number("attention.head_count")
    link = _HUB.match(str(facts.get("general.base_model.0.repo_url")))
    return Header(
        architecture=architecture,
        scheme=f"gguf-{scheme}" if scheme in ("f16", "bf16", "f32") else scheme,
        parameters=count,
        weight_bytes=held,
        bits_per_weight=8 * held / count,
        tensor_types={kind: weight / weights.total() for kind, weight in weights.most_common()},
        context=number("context_length"),
        layers=number("block_count"),
        kv_heads=number("attention.head_count_kv") or heads,
        head_size=number("attention.key_length") or (width // heads if width and heads else None),
        vocabulary=number("vocab_size") or vocabulary,
        tied="output.weight" not in names,
        base_model=None if link is None else link[1],
    )
