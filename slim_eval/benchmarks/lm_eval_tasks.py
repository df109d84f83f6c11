"""What the task files of lm-eval say, read without importing lm-eval: names, patterns, and what a task needs.

Importing lm-eval and building its own index takes ten seconds or more; a search of the same files takes about two, and
knows the same names (a test compares them). Files of the embedded model and those in ``--include-path`` come after
lm-eval's own, and override them.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slim_eval.demo import TASKS_DIR
from slim_eval.errors import MissingPackageError, UsageError
from slim_eval.utils import did_you_mean, environment, files_hash

INSTALL = 'pip install "lm-eval>=0.4.12"'
#: Properties of a task that rule it out -> why.
UNSUPPORTED = {
    "UNSAFE_CODE": "executes code that the model generates, which slim-eval does not support",
    "MULTIMODAL": "needs images or sound, but slim-eval serves only text",
}
REMOVE = "remove it from --accuracy-tasks"
#: What lm-eval asks a model for, where it generates nothing.
LOGLIKELIHOOD_TYPES = frozenset({"multiple_choice", "loglikelihood", "loglikelihood_rolling"})
_GENERATED = "generate_until"  # likewise where it does, and if a task does not say
#: Tokens that lm-eval's adapters generate at most if a task does not say how many.
DEFAULT_MAX_GEN_TOKS = 256
_MAX_GEN_TOKS = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)  # the first that is set counts
_PATTERN = re.compile(r"[*?\[]")
_LIST_TASKS = "list the known ones: lm_eval ls tasks"
#: A key at the top of a file, with its value on the same line or as a list below it.
_KEY = re.compile(
    rb"""^["']?(task|group|tag|include|class)["']?[ \t]*:[ \t]*(.*(?:\r?\n[ \t]*(?:-[ \t]|\#).*)*)""", re.MULTILINE
)
_COMMENT = re.compile(r"(^|[ \t])#.*")
_WORD = re.compile(rb"[\w./]+(?:-[\w./]+)*")
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}
_DEPTH = 20  # of files that include each other


@dataclass(frozen=True)
class TaskIndex:
    """The names that ``--accuracy-tasks`` accepts."""

    files: Mapping[str, str] = field(default_factory=dict)  # task or group -> path of the file that defines it
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # tag -> its tasks

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self.files) | frozenset(self.tags)

    def match(self, pattern: str) -> list[str]:
        """The names that match a pattern such as ``mmlu_*``, sorted, as lm-eval matches them."""
        return sorted(fnmatch.filter(self.names, pattern))

    def leaves(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The tasks that a task, group or tag stands for, each with its definition; unknown names are skipped."""
        for member in self.tags.get(name, ()) if name not in self.files else ():
            yield from self.leaves(member)
        if name in self.files:
            yield from self._leaves(name, _read(self.files[name]))

    def folder_of(self, name: str, root: Path) -> Path | None:
        """The deepest folder in `root` that contains the files of a name and of all that it stands for.

        None if none of them is in `root`. With this folder in place of `root`, lm-eval finds the same tasks under this
        name: what it stands for is too much here rather than too little.
        """
        names = self.names
        found: dict[str, None] = {}
        left = [name]
        while left:
            each = left.pop()
            if each in found:
                continue
            found[each] = None
            left += self.tags.get(each, ())
            if each in self.files:
                left += (text for text in _texts(_read(self.files[each]).get("task")) if text in names)
        folders = {Path(self.files[each]).parent for each in found if each in self.files}
        inside = [folder for folder in folders if folder.is_relative_to(root)]
        return Path(os.path.commonpath(inside)) if inside else None

    def _leaves(self, name: str, definition: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        members = definition.get("task")
        if not isinstance(members, list):
            yield name, definition
            return
        for member in members:
            if isinstance(member, str):
                yield from self.leaves(member)
            elif isinstance(member, dict) and isinstance(inner := member.get("task", member.get("group")), (str, list)):
                # A member with settings of its own, or a group within the group.
                own = str(member.get("group", inner)) if isinstance(inner, list) else inner
                base = _read(self.files[own]) if own in self.files else {}
                yield from self._leaves(own, {**base, **member})


def folder(python: Path | None = None) -> Path:
    """The folder of lm-eval's task files, in an interpreter (None for this one); lm-eval is not imported."""
    found = environment.module_folder("lm_eval", python)
    if found is None:
        raise MissingPackageError("lm_eval", "the accuracy benchmark", INSTALL)
    return found / "tasks"


def index(include_path: Path | None, python: Path | None = None) -> TaskIndex:
    """The names of lm-eval's tasks, as `python` has it, of the embedded model's, and of those in a folder.

    A UsageError refuses an `include_path` that is not a folder; a MissingPackageError says that lm-eval is not
    installed.
    """
    if include_path is not None and not include_path.is_dir():
        remedy = "give the folder that contains the task YAML"
        raise UsageError(f"--include-path: {include_path} is not a folder", remedy)
    parts = [index_of(each) for each in (folder(python), TASKS_DIR, *([include_path] if include_path else []))]
    files = {name: path for part in parts for name, path in part.files.items()}
    tags: dict[str, tuple[str, ...]] = {}
    for part in parts:
        tags.update(part.tags)
    return TaskIndex(files, tags)


@functools.lru_cache(maxsize=8)
def index_of(root: Path) -> TaskIndex:
    """The names in the files of one folder; one that cannot be read, or defines nothing, is skipped, as by lm-eval."""
    files: dict[str, str] = {}
    tags: dict[str, list[str]] = {}
    for path in _task_files(root):
        keys = _keys(path)
        if keys is None:
            continue
        is_group = "group" in keys and "class" not in keys
        name = next(iter(keys.get("group" if is_group else "task", ())), None)
        if name is None or name in files:  # of two files with one name lm-eval takes the first
            continue
        files[name] = path
        for tag in keys.get("tag", ()) if not is_group else ():
            tags.setdefault(tag, []).append(name)
    return TaskIndex(files, {tag: tuple(names) for tag, names in tags.items()})


def expand(names: Sequence[str], include_path: Path | None, python: Path | None = None) -> tuple[str, ...]:
    """Replace patterns such as ``mmlu_*`` by the names that they match; other names stay, each once.

    A UsageError shows the names nearest to a pattern that matches none.
    """
    if not any(map(_PATTERN.search, names)):
        return tuple(names)
    known = index(include_path, python)
    found: list[str] = []
    for name in names:
        matches = known.match(name) if _PATTERN.search(name) else [name]
        if not matches:
            remedy = did_you_mean(_PATTERN.split(name)[0], known.names) or _LIST_TASKS
            raise UsageError(f"no lm-eval task matches {name!r}", remedy)
        found += matches
    return tuple(dict.fromkeys(found))


def check_tasks(tasks: Iterable[str], include_path: Path | None) -> TaskIndex:
    """Refuse names that are not an lm-eval task, group or tag, and tasks that slim-eval cannot run.

    Raises:
        UsageError: A name is unknown (with the nearest ones), a task executes code or needs images or sound, or
            `include_path` is not a folder.
        MissingPackageError: lm-eval is not installed.
    """
    known = index(include_path)
    for task in tasks:
        if task not in known.names:
            remedy = did_you_mean(task, known.names) or _LIST_TASKS
            raise UsageError(f"unknown lm-eval task: {task}", remedy)
        for name, definition in known.leaves(task):
            obstacle = None
            if definition.get("unsafe_code", False) is not False:
                obstacle = "UNSAFE_CODE"
            elif definition.get("doc_to_image") is not None or definition.get("doc_to_audio"):
                obstacle = "MULTIMODAL"
            if obstacle is not None:
                raise UsageError(f"{_member(name, task)} {UNSUPPORTED[obstacle]}", REMOVE)
    return known


def check_answers(known: TaskIndex, tasks: Iterable[str], model: str, window: int) -> None:
    """Refuse, by UsageError, tasks whose answers alone do not fit the context window of a model."""
    for task in tasks:
        for name, definition in known.leaves(task):
            if _output_type(definition) == _GENERATED:
                require_room(_member(name, task), definition.get("generation_kwargs"), window, f"{model}: ")


def check_thinking(known: TaskIndex, tasks: Iterable[str]) -> None:
    """Refuse, by UsageError, tasks for which a model cannot think first."""
    for task in tasks:
        for name, definition in known.leaves(task):
            require_generated(_member(name, task), _output_type(definition))


def require_generated(task: str, output_type: str | None) -> None:
    """Refuse, by UsageError, a task whose answers are not generated, so that a thought could not end before them."""
    if output_type in LOGLIKELIHOOD_TYPES:
        cause = f"{task}: --thinking on: its answers are scored by log-likelihood, before a thought could end"
        raise UsageError(cause, f"{REMOVE}, or use --thinking off")


def require_room(task: str, generation: Any, window: int, where: str = "", default: int | None = None) -> None:
    """Refuse, by UsageError, an answer that leaves no room for a prompt in a context window, in tokens."""
    length = max_gen_toks(generation, default)
    if length >= window:
        cause = (
            f"{where}{task} generates up to {length} tokens (max_gen_toks), but the context window is {window} tokens"
        )
        remedy = "raise --max-model-len if the model supports it, or copy the task with fewer tokens (--include-path)"
        raise UsageError(cause, remedy)


def max_gen_toks(generation: Any, default: int | None = None) -> int:
    """Most tokens of an answer, from a task's ``generation_kwargs``; `default` if they do not say."""
    given = generation if isinstance(generation, Mapping) else {}
    found = next((given[key] for key in _MAX_GEN_TOKS if given.get(key) is not None), default or DEFAULT_MAX_GEN_TOKS)
    return int(found)


def folder_hash(root: Path) -> str:
    """SHA-256 of the task files in a folder, without hidden files and what Python leaves there."""
    inside = ((path, path.relative_to(root).parts) for path in sorted(root.rglob("*")) if path.is_file())
    files = (path for path, parts in inside if not any(part.startswith(".") or part == "__pycache__" for part in parts))
    return files_hash(root, files)


def _output_type(definition: Mapping[str, Any]) -> str | None:
    """What lm-eval asks the model for; None if a task is Python code, which is not read."""
    return None if "class" in definition else str(definition.get("output_type", _GENERATED))


def _member(name: str, task: str) -> str:
    return name if name == task else f"{task} ({name})"


def _task_files(root: Path) -> list[str]:
    """The files of tasks in a folder, in lm-eval's order. There are 14,000: a `Path` of each would take longest."""
    found: list[str] = []
    for folder, _, names in os.walk(root):
        if not _IGNORED.intersection(Path(folder).parts):
            found += (f"{folder}/{name}" for name in names if name.endswith(".yaml"))
    return sorted(found)


def _keys(path: str, depth: int = 0) -> dict[str, tuple[str, ...]] | None:
    """The keys of a file that name tasks, with those of the files that it includes; None if lm-eval skips it."""
    try:
        text = Path(path).read_bytes()
    except OSError:
        return None
    own = {key.decode(): tuple(_values(value)) for key, value in _KEY.findall(text)}
    found: dict[str, tuple[str, ...]] = {}
    for name in own.pop("include", ()):
        inherited = None if depth == _DEPTH else _included(_beside(path, name), depth + 1)
        if inherited is None:
            return None
        found.update(inherited)
    return {**found, **own}


def _beside(path: str, name: str) -> str:
    """The path of a file that is named in another one."""
    return name if name.startswith("/") else f"{path.rpartition('/')[0]}/{name}"


_included = functools.lru_cache(maxsize=4096)(_keys)  # hundreds of files include the same one


def _values(text: bytes) -> Iterator[str]:
    """The texts of a YAML value: one, a list in brackets, or one per line."""
    if _WORD.fullmatch(text):  # as nearly all are
        yield text.decode()
        return
    for line in text.decode("utf-8", "replace").splitlines():
        plain = _COMMENT.sub("", line).strip().removeprefix("- ").strip().strip("[]")
        yield from (value for part in plain.split(",") if (value := part.strip().strip("\"'")))


def _texts(value: Any) -> Iterator[str]:
    """All texts in lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _read(path: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A task file with those that it includes; functions stay unread. Empty if lm-eval could not read it."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Reads what lm-eval adds to YAML, such as ``!function``, as text."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))
    try:
        own = yaml.load(Path(path).read_bytes(), Loader=Loader)  # a SafeLoader
    except (OSError, yaml.YAMLError):
        return {}
    if not isinstance(own, dict) or path in seen:
        return {}
    names = own.pop("include", ())
    merged: dict[str, Any] = {}
    for name in names if isinstance(names, list) else [names] if names else []:
        merged.update(_read(_beside(path, str(name)), (*seen, path)))
    return {**merged, **own}
