"""Which models the installed Transformers and vLLM know, read from their source files: neither is imported.

Both are asked in the interpreter that would use them. What cannot be read is unknown, which refuses nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from slim_eval.models.source import ConfigFacts
from slim_eval.utils import environment


@dataclass(frozen=True)
class Library:
    """What one library can load."""

    model_types: frozenset[str]  # whose configurations it reads, e.g. llama
    causal: frozenset[str]  # with a causal language model: model types for Transformers, class names for vLLM


def knows_configuration(facts: ConfigFacts, python: Path | None) -> bool | None:
    """Whether an interpreter's Transformers reads the configuration of a model; None if that is unknown."""
    library = transformers(python)
    return None if library is None else facts.model_type in library.model_types


def transformers_knows(facts: ConfigFacts, python: Path | None, *, trust_remote_code: bool) -> bool | None:
    """Whether an interpreter's Transformers has a causal language model of this type; None if that is unknown."""
    library = transformers(python)
    if library is None or facts.model_type is None:
        return None
    return facts.model_type in library.causal or (facts.has_own_code and trust_remote_code)


def vllm_knows(facts: ConfigFacts, python: Path | None, *, trust_remote_code: bool) -> bool | None:
    """Whether an interpreter's vLLM serves this architecture, itself or with Transformers' model; None if unknown."""
    library, other = vllm(python), transformers(python)
    if library is None or other is None or facts.architecture is None:
        return None
    if facts.has_own_code and trust_remote_code:
        return True
    is_read = facts.model_type in library.model_types | other.model_types
    return is_read and (facts.architecture in library.causal or facts.model_type in other.causal)


def tied_by_default(facts: ConfigFacts, python: Path | None) -> bool | None:
    """Whether Transformers ties the embeddings of a model whose configuration does not say so; None if unknown."""
    package = environment.module_folder("transformers", python)
    if package is None or facts.model_type is None:
        return None
    name = facts.model_type.replace("-", "_")
    for module in (name, name.removesuffix("_text")):
        file = package / "models" / module / f"configuration_{module}.py"
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.ClassDef) and _default(node, "model_type") == facts.model_type:
                tied = _default(node, "tie_word_embeddings")
                return tied if isinstance(tied, bool) else None
    return None


def transformers(python: Path | None) -> Library | None:
    """What an interpreter's Transformers knows; None if it is not installed or its files have another form."""
    folder = environment.module_folder("transformers", python)
    return None if folder is None else _transformers(folder)


def vllm(python: Path | None) -> Library | None:
    """What an interpreter's vLLM knows; None if it is not installed or its files have another form."""
    folder = environment.module_folder("vllm", python)
    return None if folder is None else _vllm(folder)


def vllm_quantizations(python: Path | None) -> frozenset[str] | None:
    """The methods that an interpreter's vLLM accepts as ``quantization``; None if they are not known."""
    folder = environment.module_folder("vllm", python)
    if folder is None:
        return None
    file = folder / "model_executor" / "layers" / "quantization" / "__init__.py"
    parts = (node for value in _assigned(file, "QuantizationMethods") for node in ast.walk(value))
    return (
        frozenset(node.value for node in parts if isinstance(node, ast.Constant) and isinstance(node.value, str))
        or None
    )


@cache
def _transformers(folder: Path) -> Library | None:
    auto = folder / "models" / "auto"
    types: set[str] = set()
    for name in ("configuration_auto.py", "auto_mappings.py"):  # the second since version 5
        types.update(*(_pairs(node) for node in _assigned(auto / name, "CONFIG_MAPPING_NAMES")))
    causal: set[str] = set()
    causal.update(*(_pairs(n) for n in _assigned(auto / "modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")))
    return Library(frozenset(types), frozenset(causal)) if types and causal else None


@cache
def _vllm(folder: Path) -> Library | None:
    registry = _assigned(folder / "model_executor" / "models" / "registry.py", "_MODELS")
    classes = {
        str(key.value)
        for node in registry
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple)  # a text says since when it is unsupported
    }
    types = {
        keyword.arg
        for node in _assigned(folder / "transformers_utils" / "config.py", "_CONFIG_REGISTRY")
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg is not None
    }
    return Library(frozenset(types), frozenset(classes)) if types and classes else None


def _assigned(file: Path, ending: str) -> Iterator[ast.expr]:
    """The values that a file assigns to global names with this ending."""
    for node in _tree(file).body:
        yield from (value for name, value in _assignments(node) if name.endswith(ending))


def _assignments(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """The names that a statement assigns to, each with the value."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                yield target.id, node.value


def _pairs(node: ast.expr) -> set[str]:
    """The first of each two texts in an expression such as ``OrderedDict([("llama", "LlamaConfig"), ...])``."""
    keys: list[ast.expr | None] = []
    for part in ast.walk(node):
        if isinstance(part, ast.Tuple) and len(part.elts) == 2:
            keys.append(part.elts[0])
        elif isinstance(part, ast.Dict):
            keys += part.keys
    return {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def _tree(file: Path) -> ast.Module:
    """The code of a file; empty if it cannot be read."""
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


def _default(node: ast.ClassDef, name: str) -> object:
    """The constant that a class sets for an attribute, or as the default of an argument of its constructor."""
    for part in node.body:
        for target, value in _assignments(part):
            if target == name and isinstance(value, ast.Constant):
                return value.value
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            arguments = part.args.args[len(part.args.args) - len(part.args.defaults) :]
            for argument, default in zip(arguments, part.args.defaults, strict=True):
                if argument.arg == name and isinstance(default, ast.Constant):
                    return default.value
    return None
