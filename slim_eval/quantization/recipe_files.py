"""Recipes of the user's own: ``--precision recipe:FILE.yaml`` is a scheme that llm-compressor makes by that file.

What a run must know before it starts (formats, calibration, mistakes) is read from the file here, without
llm-compressor; `slim_eval.quantization.llmcompressor.modifiers_of` then asks llm-compressor itself, before anything is
loaded. The text travels with every job: a worker may run where the file is not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from slim_eval.errors import UsageError
from slim_eval.recognise import of_config
from slim_eval.schemes import KV8, RECIPE_FILE, SCHEMES, Recipe, Scheme, bits_of, scheme_of
from slim_eval.utils import did_you_mean, environment, slug

_FORM = "write modifiers as default_stage: {default_modifiers: {GPTQModifier: {scheme: W4A16, targets: [Linear]}}}"
_MAX_BYTES = 10**6
#: Modifiers that need no data themselves; if they quantize activations by fixed scales, they do.
_WITHOUT_DATA = ("QuantizationModifier", "QuIPModifier", "SpinQuantModifier", "MagnitudePruningModifier")
#: Presets of compressed-tensors with such scales.
_STATIC_PRESETS = ("FP8", "NVFP4")


def register(precisions: Iterable[str], python: Path | None = None) -> None:
    """Register a scheme for each ``recipe:FILE`` among the names of schemes; `python` is what quantizes.

    Raises:
        UsageError: A file is missing, is not a recipe, or names a modifier that llm-compressor does not have; two files
            have the same name.
    """
    seen: dict[str, str] = {}
    for asked in dict.fromkeys(name for name in precisions if name.startswith(RECIPE_FILE) and not name.endswith(KV8)):
        if asked in SCHEMES:  # its name, not a file: a job, or a second run of this process
            continue
        file = Path(asked.removeprefix(RECIPE_FILE)).expanduser()
        stem = slug(file.stem)
        if stem in seen:
            raise UsageError(f"recipes {seen[stem]} and {file} have the same name", "rename one of the files")
        seen[stem] = str(file)
        made = of_text(stem, _read(file), str(file), python)
        _replace(made, asked)


def register_texts(texts: Mapping[str, str]) -> None:
    """Register the recipes that came with a job: name without ``recipe:`` -> text of the file."""
    for stem, text in texts.items():
        _replace(of_text(stem, text, f"{stem}.yaml"))


def texts() -> dict[str, str]:
    """The registered recipes: name without ``recipe:`` -> text of the file."""
    return {
        name.removeprefix(RECIPE_FILE): held.recipe.file
        for name, held in SCHEMES.items()
        if held.recipe is not None and held.recipe.file is not None
    }


def of_text(stem: str, text: str, where: str, python: Path | None = None) -> Scheme:
    """The scheme of a recipe; a UsageError if it is none. `where` names the file in messages."""
    modifiers = list(_modifiers(text, where))
    if (known := known_modifiers(python)) is not None:
        for name, _ in modifiers:
            if name not in known:
                cause = f"recipe {where}: llm-compressor has no modifier {name!r}"
                raise UsageError(cause, did_you_mean(name, sorted(known)))
    quantizing = [options for _, options in modifiers if {"scheme", "config_groups"} & options.keys()]
    if not quantizing:
        cause = f"recipe {where} quantizes nothing: no modifier has a scheme or config_groups"
        raise UsageError(cause, _FORM)
    groups = {f"{number}": group for number, group in enumerate(_groups(quantizing))}
    held_cache = next((options["kv_cache_scheme"] for _, options in modifiers if options.get("kv_cache_scheme")), None)
    formats = of_config({
        "quant_method": "compressed-tensors",
        "config_groups": {group.get("preset", number): group for number, group in groups.items()},
        "kv_cache_scheme": held_cache,
    })  # fmt: skip
    weights, activations = bits_of(formats)
    first, *rest = formats.split()
    label = " ".join((first.upper(), *rest))
    methods = " + ".join(name.removesuffix("Modifier") for name, _ in modifiers)
    targets = [target for group in groups.values() for target in _listed(group.get("targets") or "Linear")]
    ignore = [each for options in quantizing for each in _listed(options.get("ignore"))]
    _require_patterns((*targets, *ignore), where)
    served = scheme_of(f"int8{KV8}").served_with if held_cache else {}
    return Scheme(
        f"{RECIPE_FILE}{stem}",
        label,
        16 if weights is None else weights,  # of several formats: not known, and at most this
        activation_bits=activations,
        kv_cache_bits=8 if held_cache else 16,
        recipe=Recipe(
            f"{stem}: {methods} ({label})",
            ", ".join(dict.fromkeys(group.get("preset", "config_groups") for group in groups.values())),
            modifier=modifiers[-1][0],
            file=text,
            kv_cache=held_cache is not None,
            needs_calibration=any(_needs_data(name, options, _groups([options])) for name, options in modifiers),
            targets=tuple(dict.fromkeys(targets)),
            ignore=tuple(dict.fromkeys(ignore)),
        ),
        kernels=scheme_of(formats).kernels,
        served_with=served,
    )


def _require_patterns(names: Iterable[str], where: str) -> None:
    """Refuse, with a UsageError, a name of modules that begins with ``re:`` and is not a regular expression."""
    for name in names:
        try:
            re.compile(name.removeprefix("re:") if name.startswith("re:") else "")
        except re.error as error:
            cause = f"recipe {where}: {name!r} is not a regular expression: {error}"
            raise UsageError(cause, "write it as in Python, e.g. re:.*lm_head") from error


def _replace(made: Scheme, alias: str = "") -> None:
    SCHEMES.unregister(made.name)
    SCHEMES.register(replace(made, aliases=(alias,) if alias and alias != made.name else ()))


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise UsageError(f"recipe {file} is larger than 1 MB", _FORM)
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"recipe {file} is not a text in UTF-8", _FORM) from error
    except OSError as error:
        cause = f"recipe {file} cannot be read: {error.strerror}"
        raise UsageError(cause, "give the path of an llm-compressor recipe, as recipe:FILE.yaml") from error


def _modifiers(text: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The modifiers of a recipe in their order, each with its arguments, as llm-compressor reads them."""
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"recipe {where}{place}: {error.problem or error.context}", "fix its YAML") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"recipe {where} is not YAML: {reason}", "fix its YAML") from error
    count = 0
    for stage in _parts(content, "_stage"):
        for group in _parts(stage, "_modifiers"):
            if not isinstance(group, dict):
                continue
            for name, options in group.items():
                if not isinstance(options, dict):
                    cause = f"recipe {where}: {name} has no arguments"
                    raise UsageError(cause, f"write them as {name}: {{...}}; {{}} if it needs none")
                count += 1
                yield str(name), options
    if not count:
        raise UsageError(f"recipe {where} contains no modifiers", _FORM)


def _parts(content: Any, ending: str) -> list[Any]:
    return [part for key, part in content.items() if str(key).endswith(ending)] if isinstance(content, dict) else []


def _groups(quantizing: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What modifiers quantize, each group with its formats or the name of a `preset`, and its targets."""
    found: list[dict[str, Any]] = []
    for options in quantizing:
        scheme, groups = options.get("scheme"), options.get("config_groups")
        targets = options.get("targets")
        if isinstance(scheme, str):
            found.append({"preset": scheme.upper(), "targets": targets})
        elif isinstance(scheme, dict) and "weights" in scheme:
            found.append({**scheme, "targets": targets})
        elif isinstance(scheme, dict):
            found += ({"preset": str(name).upper(), "targets": each} for name, each in scheme.items())
        if isinstance(groups, dict):
            found += (dict(group) for group in groups.values() if isinstance(group, dict))
    return found


def _needs_data(name: str, options: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a modifier needs calibration data; one that is not known is assumed to."""
    if name not in _WITHOUT_DATA or options.get("kv_cache_scheme"):
        return True
    return any(
        group.get("preset") in _STATIC_PRESETS or _is_static(group.get(part))
        for group in groups
        for part in ("input_activations", "output_activations")
    )


def _is_static(activations: Any) -> bool:
    """Whether activations are quantized by scales that are fixed beforehand, which is the default."""
    return isinstance(activations, dict) and activations.get("dynamic", False) in (False, "local")


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(each) for each in value] if isinstance(value, list) else []


def known_modifiers(python: Path | None) -> frozenset[str] | None:
    """The modifiers of an interpreter's llm-compressor, from its source files; None if it is not installed."""
    folder = environment.module_folder("llmcompressor", python)
    return None if folder is None else _defined_in(folder / "modifiers")


@cache
def _defined_in(folder: Path) -> frozenset[str] | None:
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        try:
            text = file.read_text(encoding="utf-8")
            if not re.search(r"^class \w+Modifier\b", text, re.MULTILINE):
                continue
            nodes = ast.parse(text).body
        except (OSError, SyntaxError, ValueError):
            continue
        found.update(node.name for node in nodes if isinstance(node, ast.ClassDef) and node.name.endswith("Modifier"))
    return frozenset(found - {"Modifier"}) or None
