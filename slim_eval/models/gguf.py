"""GGUF files, llama.cpp's format of models: which one is meant, and what its header states; no weight is read.

The names of types and architectures are those of the package ``gguf`` of llama.cpp's own authors, which is imported
late. Its reader is not used: it takes 10 s for a vocabulary of 50,000 tokens, which are skipped here.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from slim_eval.errors import MissingPackageError, UsageError
from slim_eval.recognise import of_name

SUFFIX = ".gguf"
INSTALL = 'pip install "slim-eval[gguf]"'
_MAGIC = b"GGUF"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_OTHER = re.compile(r"mmproj|.*imatrix", re.IGNORECASE)
_SCHEME = re.compile(r"i?q\d\w*|tq\d\w*|gguf-\w+")
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
    def kv_bytes_per_token(self) -> int | None:
        """Bytes of a 16-bit cache of keys and values per token; None if the header does not determine it."""
        if self.layers is None or self.kv_heads is None or self.head_size is None:
            return None
        return 2 * 2 * self.layers * self.kv_heads * self.head_size

    @property
    def note(self) -> str:
        """What the file really contains, for its records: small models often have other types than their name says."""
        kinds = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in self.tensor_types.items())
        return f"the GGUF file stores {self.bits_per_weight:.2f} bits per weight ({kinds})"


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file."""
    return path.suffix.casefold() == SUFFIX


def models_in(names: Iterable[str]) -> list[str]:
    """The GGUF models among file names: their first parts, without parts for other modalities and statistics."""
    found = (name for name in names if is_gguf(Path(name)) and not _OTHER.match(Path(name).name))
    return sorted(name for name in found if (part := _PART.search(name)) is None or int(part[1]) == 1)


def is_scheme(name: str) -> bool:
    """Whether a scheme is one of GGUF files: ``q4_k_m``, ``iq2_xs``, ``gguf-f16``."""
    return _SCHEME.fullmatch(name.casefold()) is not None


def choose(where: str, names: Sequence[str], schemes: Iterable[str]) -> dict[str, str]:
    """Scheme -> the file that states it in its name; the only file if no scheme is asked for.

    Raises:
        UsageError: A scheme has no file or several, or none is asked for and there are several files.
    """
    stated = {name: (of_name(f"./{name}") or "").replace("gguf-fp16", "gguf-f16") for name in names}
    listed = ", ".join(name if scheme in name.casefold() else f"{name} ({scheme})" for name, scheme in stated.items())
    chosen: dict[str, str] = {}
    for scheme in schemes:
        found = [name for name, own in stated.items() if own == scheme.casefold()]
        if len(found) != 1:
            cause = f"{where} has {len(found) or 'no'} GGUF file{'s' * (len(found) > 1)} of {scheme}"
            raise UsageError(f"{cause}; it has {listed}", "name one of their quantizations in --precision")
        chosen[scheme] = found[0]
    if chosen:
        return chosen
    if len(names) > 1:
        cause = f"{where} has {len(names)} GGUF files: {listed}"
        raise UsageError(cause, 'name quantizations in --precision, such as "q8_0 q4_k_m"')
    return {stated[names[0]]: names[0]}


def parts_of(file: Path) -> list[Path]:
    """All files of a model whose first one is given.

    Raises:
        UsageError: One is missing.
    """
    files = [file.with_name(name) for name in part_names(file.name)]
    if len(files) > 1 and (missing := [each.name for each in files if not each.is_file()]):
        raise UsageError(f"{file}: {len(missing)} of its {len(files)} parts are missing, e.g. {missing[0]}", _AGAIN)
    return files


def part_names(name: str) -> list[str]:
    """The names of all files of a model, by that of its first one."""
    part = _PART.search(name)
    if part is None:
        return [name]
    stem = name[: part.start()]
    return [f"{stem}-{number:05d}-of-{part[2]}{SUFFIX}" for number in range(1, int(part[2]) + 1)]


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
        from gguf.constants import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGMLQuantizationType, LlamaFileType
    except ImportError as error:
        raise MissingPackageError("gguf", "reading a GGUF file", INSTALL) from error
    weights: Counter[str] = Counter()
    count = held = 0
    names: set[str] = set()
    facts: dict[str, Any] = {}
    try:
        for part in parts_of(file):
            with part.open("rb") as stream:
                fields, tensors, start = _parse(stream)
            facts = facts or fields
            for name, (shape, type_number, offset) in tensors.items():
                kind, elements = GGMLQuantizationType(type_number), math.prod(shape)
                block, block_bytes = GGML_QUANT_SIZES[kind]
                bytes_ = elements // block * block_bytes
                if start + offset + bytes_ > part.stat().st_size:
                    raise EOFError
                names.add(name)
                count, held = count + elements, held + bytes_
                if len(shape) > 1:
                    weights[kind.name.lower()] += elements
    except (ValueError, KeyError, EOFError, struct.error, OverflowError, MemoryError) as error:
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
    # Converters copy it from the source's own card: of a fine-tuned model it is the model that was fine-tuned.
    if link is not None and _letters(facts.get("general.finetune")) not in _letters(link[1]):
        link = None
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
        vocabulary=number("vocab_size") or facts.get("tokenizer.ggml.tokens"),
        tied="output.weight" not in names,
        base_model=None if link is None else link[1],
    )


def _letters(text: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower()) if isinstance(text, str) else ""


def header_bytes(data: bytes) -> int | None:
    """How many bytes at the beginning of a file are its header; None if there are more than these, or it is damaged."""
    try:
        return _parse(io.BytesIO(data))[2]
    except (ValueError, KeyError, EOFError, struct.error, OverflowError, MemoryError):
        return None


#: Types of values in a header -> how `struct` reads them. 8 is a text, 9 an array.
_VALUES = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9
_MOST = 2**40  # of anything that a header counts


def _parse(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], int, int]], int]:
    """The fields of a file, its tensors (shape, number of the type, offset), and where the tensors begin.

    An array is only counted: its value is its length. Raises ValueError, EOFError or `struct.error` if the header is
    damaged.
    """

    def number(form: str) -> Any:
        return struct.unpack(form, exactly(struct.calcsize(form)))[0]

    def exactly(size: int) -> bytes:
        data = stream.read(size) if size < _MOST else b""
        if len(data) != size:
            raise EOFError
        return data

    def value(kind: int) -> Any:
        if kind == _TEXT:
            return exactly(number("<Q")).decode("utf-8", "replace")
        if kind != _ARRAY:
            return number(_VALUES[kind])
        inner, count = number("<I"), number("<Q")
        if inner in _VALUES:
            exactly(struct.calcsize(_VALUES[inner]) * count)
        else:
            for _ in range(count):
                value(inner)
        return count

    if exactly(4) != _MAGIC or number("<I") not in (2, 3):
        raise ValueError("another version of the format")
    tensor_count, field_count = number("<Q"), number("<Q")
    fields = {str(value(_TEXT)): value(number("<I")) for _ in range(field_count)}
    tensors = {}
    for _ in range(tensor_count):
        name, dimensions = str(value(_TEXT)), number("<I")
        shape = tuple(number("<Q") for _ in range(dimensions))
        tensors[name] = (shape, number("<I"), number("<Q"))
    alignment = fields.get("general.alignment") or 32
    return fields, tensors, math.ceil(stream.tell() / alignment) * alignment
