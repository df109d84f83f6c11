"""Older layouts of lm-eval's files, brought into the one of today's.

What changed, by the version that brought it:

- 0.4.0: keys of scores name their filter (``acc,none``, before ``acc``); ``configs`` and ``n-shot`` are new. Samples
  are one JSON array per task, ``{model_args}_{task}.jsonl``. A member of a group names it in
  ``configs.{task}.group``, and a group's place in others only shows in its ``alias`` (`` - humanities``).
- 0.4.3: results and samples of a run share a date in their names; ``group_subtasks`` and ``n-samples`` are new, as
  are the three hashes of a sample. 0.4.3 writes ``samples_{task}_{date}.json``, one array, later versions one line
  per item.
- 0.4.7: a sample names its ``filter`` and its ``metrics``. Before, it has one line per item and filter, in the order
  of the task's ``filter_list``.

lm-eval's hashes are SHA-256 over texts that older samples contain, so that items of all versions since 0.4.0 pair.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Of a sample, whatever its task; its other fields are scores.
SAMPLE_FIELDS = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash",
}  # fmt: skip
_DATE = re.compile(r"_(\d{4}-\d\d-\d\dT[\d.\-]+)$")


def has_no_filters(document: Mapping[str, Any]) -> bool:
    """Whether it is of lm-eval 0.3 or older."""
    results = document.get("results")
    scores = [keys for keys in results.values() if isinstance(keys, dict)] if isinstance(results, dict) else []
    has_filters = any("," in key for keys in scores for key in keys)
    return not has_filters and not {"configs", "n-shot", "n-samples", "group_subtasks"} & document.keys()


def upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """A result file of any version with the fields of the newest; what it does not contain stays missing."""
    results, config = document.get("results"), document.get("config")
    if not isinstance(results, dict):
        return document
    found = dict(document)
    if has_no_filters(document):
        found["results"] = {
            task: {f"{key},none": score for key, score in scores.items()} if isinstance(scores, dict) else scores
            for task, scores in results.items()
        }
        if isinstance(config, dict) and "num_fewshot" in config:
            found["n-shot"] = dict.fromkeys(results, config["num_fewshot"])
    if "group_subtasks" not in document:
        found["group_subtasks"] = _groups(document, results)
    return found


def _groups(document: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Group -> members, from what lm-eval 0.4.0 to 0.4.2 write of them; by name where nothing says it."""
    configs, named = document.get("configs"), document.get("groups")
    configs = configs if isinstance(configs, dict) else {}
    groups = [name for name in results if isinstance(named, dict) and name in named]
    inner = {name for name, scores in results.items() if _alias(scores).lstrip().startswith("- ")}
    outer = [name for name in groups if name not in inner]
    members: dict[str, list[str]] = {group: [] for group in groups}
    for name in sorted(results):
        own = configs.get(name)
        parents = own.get("group") if isinstance(own, dict) else None
        listed = parents if isinstance(parents, list) else [parents]
        stated = [parent for parent in listed if isinstance(parent, str) and parent in members]
        if not stated and name in inner:
            # A subgroup, or a task whose group is not named: below the group that its name begins with.
            prefixes = sorted((group for group in outer if name.startswith(f"{group}_")), key=len)
            stated = prefixes[-1:] or (outer if len(outer) == 1 else [])
        for parent in stated:
            if parent != name:
                members[parent].append(name)
    return members


def _alias(scores: Any) -> str:
    alias = scores.get("alias") if isinstance(scores, dict) else None
    return alias if isinstance(alias, str) else ""


def samples_files(path: Path, model_arguments: Any) -> dict[str, Path]:
    """Task -> the file beside a result file that contains its samples; those of other runs are not among them."""
    if date := _DATE.search(path.stem):
        found = {}
        for ending in (f"_{date[1]}.json", f"_{date[1]}.jsonl"):
            for sibling in sorted(path.parent.glob("samples_*")):
                if sibling.name.endswith(ending):
                    found[sibling.name.removeprefix("samples_").removesuffix(ending)] = sibling
        return found
    if not isinstance(model_arguments, str) or not model_arguments:
        return {}
    # Before 0.4.3, characters that a file system refuses became "__".
    wanted = _plain(model_arguments)
    names = [(sibling, sibling.stem) for sibling in sorted(path.parent.glob("*.jsonl"))]
    return {
        stem[cut + 1 :]: sibling
        for sibling, stem in names
        for cut in (match.start() for match in re.finditer("_", stem))
        if _plain(stem[:cut]) == wanted and stem[cut + 1 :] and not stem[cut + 1 :].startswith("_")
    }


def _plain(text: str) -> str:
    """A text as both the argument and the file name contain it."""
    return re.sub(r"[\W_]+", "", text)


def doc_hash(sample: Mapping[str, Any]) -> str | None:
    """lm-eval's hash of an item; None if the sample does not contain the item."""
    doc = sample.get("doc")
    return None if doc is None else _sha256(json.dumps(doc, indent=2, ensure_ascii=False))


def prompt_hash(sample: Mapping[str, Any]) -> str | None:
    """lm-eval's hash of the prompt; None if the sample does not contain it."""
    arguments = sample.get("arguments")
    try:
        first = arguments["gen_args_0"]["arg_0"] if isinstance(arguments, dict) else arguments[0][0]  # type: ignore[index]
    except (LookupError, TypeError):
        return None
    return _sha256(first) if isinstance(first, str) else None


def target_hash(sample: Mapping[str, Any]) -> str:
    """lm-eval's hash of the right answer."""
    return _sha256(str(sample.get("target")))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
