"""What can be known of a checkpoint before hours of work, from its own files: one table, `CHECKS`.

`slim-eval run`, `run --dry-run` and `slim-eval doctor` go through it. It reads configurations, tokenizers and the
headers of weight files; no weight is loaded and neither torch nor transformers is imported. A finding is a refusal, or
a warning that becomes a note in the records.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from slim_eval.errors import HubError, SlimEvalError, UsageError
from slim_eval.models import architectures
from slim_eval.models.source import (
    CONFIG_FILE,
    INDEX_FILE,
    ONE_FILE,
    OTHER_PARTS,
    ConfigFacts,
    ModelSource,
    Tensors,
    describe,
    describe_config,
    has_safetensors,
    read_header,
    read_json,
    read_tensors,
    require_plain,
    same_bytes,
    weight_files,
)
from slim_eval.schemes import Recipe, scheme
from slim_eval.utils import environment

_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|embeddings?|tok_embeddings)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
#: Any name of an output layer, packed ones too, and the number of a layer in the name of a tensor.
_OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|output|head|proj_out|score)\.")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_NO_LINEAR = re.compile(r"(^|\.)([^.]*embed[^.]*|wte|wpe)\.weight$")  # embeddings of any kind, and a head of that name
#: Experts of one layer in one tensor (experts, out, in), which llm-compressor splits into linear layers.
_FUSED_EXPERTS = re.compile(r"\bexperts\.(gate_up|gate|up|down)_proj$|_moe\.(input|output)_linear\.weight$")
_TRANSPOSED_EXPERTS = ("gpt_oss", "llama4", "llama4_text")  # (experts, in, out)
_CONV1D = ("gpt2", "openai-gpt")  # their layers are Conv1D, which no recipe targets
_TOKENIZER_FILES = ("*tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json", "*token*.py")

#: Files of an adapter, such as a LoRA, as peft writes them.
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

_Package = tuple[tuple[str, ...], str]  # modules of which any will do, and what to install if there is none
#: Format of a quantized checkpoint -> packages that Transformers needs to read it.
_FORMATS: dict[str, tuple[_Package, ...]] = {
    "awq": ((("gptqmodel", "awq"), "gptqmodel"),),
    "gptq": ((("optimum",), "optimum"), (("gptqmodel", "auto_gptq"), "gptqmodel")),
    "bitsandbytes": ((("bitsandbytes",), "bitsandbytes"), (("accelerate",), "accelerate")),
    "aqlm": ((("aqlm",), "aqlm[gpu,cpu]"),),
    "auto-round": ((("auto_round",), "auto-round"),),
    "compressed-tensors": ((("compressed_tensors",), "compressed-tensors"),),
    "eetq": ((("kernels",), "kernels"),),
    "hqq": ((("hqq",), "hqq"),),
    "quanto": ((("optimum",), "optimum-quanto"),),
    "quark": ((("quark",), "amd-quark"),),
    "spqr": ((("spqr_quant",), "spqr_quant[gpu]"),),
    "torchao": ((("torchao",), "torchao"),),
    "vptq": ((("vptq",), "vptq"),),
}
#: Files of a tokenizer without ``tokenizer.json`` -> the package that reads them.
_TOKENIZERS = {"*.model": "sentencepiece", "*.tiktoken": "tiktoken"}
#: Type of a part, in ``vision_config`` and the like -> its package, in the form of `_FORMATS`.
_PARTS = {"gemma3n_vision": (("timm",), "timm"), "timm_wrapper": (("timm",), "timm")}
#: Value of the engine argument ``attn_implementation`` -> likewise.
_ATTENTION = {
    "flash_attention_2": (("flash_attn",), "flash-attn --no-build-isolation"),
    "flash_attention_3": (("flash_attn_3", "flash_attn_interface"), "flash-attn-3 --no-build-isolation"),
}


class PlannedEngine(Protocol):
    """What is asked of an engine that may serve the checkpoint; see `engines.EngineType`."""

    label: str
    own_formats: frozenset[str] | None

    def knows(self, facts: ConfigFacts, python: Path | None, *, trust_remote_code: bool) -> bool | None:
        """Whether it serves models of this architecture; None if that is unknown."""


@dataclass(frozen=True)
class Use:
    """What a run would do with a checkpoint."""

    precisions: tuple[str, ...] = ()  # schemes to serve it under
    to_quantize: tuple[str, ...] = ()  # those of them whose checkpoints must still be made
    servers: tuple[PlannedEngine, ...] = ()  # the engines that may serve it
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    serve_python: Path | None = None  # interpreter that measures; None for this one
    quantize_python: Path | None = None  # likewise, that quantizes
    elsewhere: bool = False  # whether other machines will do it, whose packages are not known here
    group_size: int | None = None  # ``--group-size``
    skip_unfit: bool = False  # ``--skip-unfit``


@dataclass(frozen=True)
class Finding:
    """One thing that a run could stumble over, or whose numbers need a note."""

    cause: str
    remedy: str = ""
    is_refusal: bool = True  # otherwise a warning
    precision: str | None = None  # the only scheme that it concerns; None for all
    is_usage: bool = True  # whether the command is to be changed, not the machine
    check: str = ""  # name of its check

    @property
    def error(self) -> SlimEvalError:
        """The error of a run that is refused."""
        return (UsageError if self.is_usage else SlimEvalError)(self.cause, self.remedy)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to look at, and what a run would do with it. What its files cannot tell is None or empty."""

    source: ModelSource
    use: Use

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.source.name

    @property
    def folder(self) -> Path:
        """The folder of its files; of a model from the hub that is not downloaded, only some are there."""
        return self.source.path or self.source.pickled or self.source.config_dir

    @cached_property
    def facts(self) -> ConfigFacts:
        """Its configuration; a UsageError if that cannot be read."""
        return describe_config(self.folder)

    @cached_property
    def tensors(self) -> Tensors:
        """The tensors of its weight files, from their headers; empty if these cannot be read."""
        with suppress(HubError, UsageError):
            return read_tensors(self.source)
        return {}

    @cached_property
    def embedding(self) -> str | None:
        """The name of the table of input embeddings."""
        found = (name for name in self.tensors if _EMBEDDING.search(name) and not OTHER_PARTS.search(name))
        return max(found, key=lambda name: self.tensors[name][1][0], default=None)

    @property
    def has_tokenizer_code(self) -> bool:
        """Whether its tokenizer is Python code that comes with it."""
        own = self.config("tokenizer_config.json").get("auto_map") or self.config(CONFIG_FILE).get("auto_map") or {}
        return "AutoTokenizer" in own

    def config(self, file: str) -> dict[str, Any]:
        """A JSON file of its folder, e.g. ``tokenizer_config.json``; empty without one."""
        return read_json(self.folder / file) if (self.folder / file).is_file() else {}


@dataclass(frozen=True)
class Check:
    """One row of the table. A UsageError that `find` raises is a refusal too."""

    name: str
    reads: str  # the files that it looks at
    find: Callable[[Checkpoint], Iterator[Finding]]


def examine(source: ModelSource, use: Use) -> list[Finding]:
    """Everything that the table finds in a checkpoint, in its order; the first refusal is what a run would report."""
    checkpoint = Checkpoint(source, use)
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += (replace(finding, check=check.name) for finding in check.find(checkpoint))
        except UsageError as error:
            found.append(Finding(error.cause, error.remedy, check=check.name))
        if check is CHECKS[0] and found:
            break  # nothing else can be said of what is not a language model
    return found


def require(source: ModelSource, use: Use) -> list[Finding]:
    """The warnings of the table; raises a `SlimEvalError` for the first refusal."""
    found = examine(source, use)
    if refusal := next((finding for finding in found if finding.is_refusal), None):
        raise refusal.error
    return found


def linear_inputs(tensors: Tensors, facts: ConfigFacts, recipe: Recipe) -> dict[str, int]:
    """Weight -> input width, of those that a recipe quantizes: linear layers and the experts of a mixture.

    Known from the names and shapes in the headers alone. Parts for other modalities than text are left out.
    """
    found: dict[str, int] = {}
    if "Linear" not in recipe.targets or facts.model_type in _CONV1D:
        return found
    for name, (kind, shape) in tensors.items():
        is_left = OTHER_PARTS.search(name) or recipe.ignores(name.removesuffix(".weight"))
        if is_left or not kind.startswith(("F", "BF")):
            continue
        if len(shape) == 2 and name.endswith(".weight") and not _NO_LINEAR.search(name):
            found[name] = shape[1]
        elif len(shape) == 3 and _FUSED_EXPERTS.search(name):
            found[name] = shape[1 if facts.model_type in _TRANSPOSED_EXPERTS else 2]
    return found


def _configuration(checkpoint: Checkpoint) -> Iterator[Finding]:
    facts = checkpoint.facts
    if facts.not_causal is not None:
        kind = facts.architecture or facts.model_type
        yield Finding(
            f"{checkpoint.name} is {facts.not_causal} ({kind}), not a causal language model",
            "give a model that was trained for text generation, such as a LlamaForCausalLM",
        )


def _architecture(checkpoint: Checkpoint) -> Iterator[Finding]:
    if checkpoint.use.elsewhere:
        return
    facts, use, trust = checkpoint.facts, checkpoint.use, checkpoint.use.trust_remote_code
    labels = [server.label for server in use.servers]
    answers = [server.knows(facts, use.serve_python, trust_remote_code=trust) for server in use.servers]
    if answers and all(known is False for known in answers):
        who, python = " or ".join(labels), use.serve_python
        remedy = "choose another model" if "vLLM" in labels else "try --engine vllm, or choose another model"
    elif use.to_quantize and (
        architectures.transformers_knows(facts, use.quantize_python, trust_remote_code=trust) is False
    ):
        who, python = "Transformers, by which models are quantized,", use.quantize_python
        remedy = f"leave {' and '.join(use.to_quantize)} out of --precision for this model"
    else:
        return
    kind = f"{facts.architecture} (model type {facts.model_type!r})"
    if facts.has_own_code and not trust:
        cause = f"{checkpoint.name} is a {kind}, whose Python code comes with the checkpoint"
        remedy = "review the code, then add --trust-remote-code"
    elif architectures.knows_configuration(facts, python) is False:
        cause = f"{checkpoint.name} is a {kind}: the installed Transformers does not know this type"
        remedy = f"upgrade it: {environment.pip_install('-U transformers', python)}, or choose another model"
    else:
        cause = f"{checkpoint.name} is a {kind}: {who} has no causal language model of this type"
    yield Finding(cause, remedy)


def _adapter(checkpoint: Checkpoint) -> Iterator[Finding]:
    found = next((name for name in _ADAPTER_FILES if (checkpoint.folder / name).is_file()), None)
    if found is None:
        return
    base = _base_of(checkpoint)
    alone = checkpoint.source.path is not None and not has_safetensors(checkpoint.source.path)
    merge = f"merge it into {base or 'its base model'} (peft: merge_and_unload, then save_pretrained)"
    if alone:
        of = "" if base is None else f" of {base}"
        cause = f"{checkpoint.name} contains an adapter{of} ({found}) and no weights of a model"
        yield Finding(cause, f"{merge}, and give the folder of the result")
        return
    pythons = (checkpoint.use.serve_python, checkpoint.use.quantize_python)
    applies = False
    with suppress(OSError, ValueError):  # an interpreter that does not run is reported elsewhere
        applies = not all(environment.missing_modules(("peft",), python) for python in pythons)
    if applies and found == _ADAPTER_FILES[0]:
        # Transformers then loads the base model that the adapter names, instead of the weights beside it.
        cause = (
            f"{checkpoint.name} contains an adapter ({found}) beside its weights: Transformers would apply it, because "
            "peft is installed, and other engines would not"
        )
        yield Finding(cause, f"move the adapter's files out of the folder, or {merge}")
    else:
        text = f"an adapter beside the weights ({found}) is not applied: only the weights of the model are measured"
        yield Finding(text, is_refusal=False)


def _base_of(checkpoint: Checkpoint) -> str | None:
    """The model that an adapter names as its base; None if it names none."""
    named = checkpoint.config(_ADAPTER_FILES[0]).get("base_model_name_or_path")
    return str(named) if named else None


def _weight_files(checkpoint: Checkpoint) -> Iterator[Finding]:
    folder = checkpoint.source.path
    if folder is None:
        return
    describe(folder)  # raises for a file that is missing, truncated, or not what its name says
    others = [file for file in weight_files(folder) if file.name != ONE_FILE]
    own = read_header(folder / ONE_FILE).keys() if (folder / ONE_FILE).is_file() else set[str]()
    if others and not own and not (folder / INDEX_FILE).is_file():
        yield Finding(
            f"{folder}: {len(others)} weight files, e.g. {others[0].name}, but no {INDEX_FILE}",
            f"download the index of the same model too, or join the files into one {ONE_FILE}",
        )
    elif not all(own.isdisjoint(read_header(file)) for file in others):
        yield Finding(
            f"{folder}: {ONE_FILE} and other files contain weights of the same names, and engines read different ones",
            "keep one of them",
        )
    index = checkpoint.config(INDEX_FILE).get("weight_map") or {}
    if lacking := [name for name in index if name not in checkpoint.tensors]:
        yield Finding(
            f"{folder}: the index lists {len(lacking)} tensors that the weight files do not contain, e.g. {lacking[0]}",
            "the files are of different versions: download the model again",
        )


def _parts(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Layers and an output layer that the weight files lack: an engine would fill them with random numbers."""
    facts, config = checkpoint.facts, checkpoint.config(CONFIG_FILE)
    names = [name for name in checkpoint.tensors if not OTHER_PARTS.search(name)]
    if not names or facts.has_own_code:
        return
    merged = {**config, **(config.get("text_config") or {})}
    count = next((merged[key] for key in ("num_hidden_layers", "n_layer") if isinstance(merged.get(key), int)), None)
    layers = {int(match[1]) for name in names if (match := _LAYER.search(name))}
    if layers and count is not None and (lacking := sorted(set(range(count)) - layers)):
        yield Finding(
            f"{checkpoint.name}: config.json says {count} layers, but the weight files lack number {lacking[0]}",
            "download the model again, with the config.json that belongs to these weights",
        )
    is_causal = str(facts.architecture).endswith("ForCausalLM")
    has_own_head = facts.tied_stated and not facts.tied_embeddings
    if is_causal and has_own_head and checkpoint.embedding and not any(_OUTPUT.search(name) for name in names):
        yield Finding(
            f"{checkpoint.name}: config.json says that the output layer is not tied to the embeddings, but the weight "
            "files have none",
            "set tie_word_embeddings to true in config.json if it is tied, else download the model again",
        )


def _quantized(checkpoint: Checkpoint) -> Iterator[Finding]:
    for precision in checkpoint.use.precisions:
        require_plain(checkpoint.source, checkpoint.facts, precision)
    yield from ()


def _packages(checkpoint: Checkpoint) -> Iterator[Finding]:
    if checkpoint.use.elsewhere:
        return
    use, quantization = checkpoint.use, checkpoint.facts.quantization
    needs: dict[str, tuple[_Package, ...]] = {}  # why -> what
    reads = [server.own_formats is None or quantization in server.own_formats for server in use.servers]
    if reads and not any(reads):
        needs[f"its weights are quantized with {quantization}"] = _FORMATS.get(str(quantization), ())
    attention = str(use.engine_args.get("attn_implementation"))
    if attention in _ATTENTION:
        needs[f"--engine-arg attn_implementation={attention}"] = (_ATTENTION[attention],)
    if not (checkpoint.folder / "tokenizer.json").is_file() and not checkpoint.has_tokenizer_code:
        for pattern, package in _TOKENIZERS.items():
            for found in list(checkpoint.folder.glob(pattern))[:1]:
                needs[f"its tokenizer is in {found.name}"] = (((package,), package),)
    for part in checkpoint.config(CONFIG_FILE).values():
        if isinstance(part, dict) and (kind := str(part.get("model_type"))) in _PARTS:
            needs[f"it has a part of the type {kind!r}"] = (_PARTS[kind],)
    if use.trust_remote_code:
        for file, module in _imports(checkpoint):
            needs[f"its code {file} imports {module}"] = (((module,), module),)
    for why, packages in needs.items():
        absent: list[_Package] = []
        with suppress(OSError, ValueError):  # an interpreter that does not run is reported elsewhere
            absent = [each for each in packages if environment.missing_modules(each[0], use.serve_python) == [*each[0]]]
        if absent:
            names = " and ".join(repr(modules[0]) for modules, _ in absent)
            what = f"the package {names}, which is" if len(absent) == 1 else f"the packages {names}, which are"
            install = environment.pip_install(" ".join(package for _, package in absent), use.serve_python)
            yield Finding(f"{checkpoint.name} needs {what} not installed: {why}", f"install: {install}", is_usage=False)


def _imports(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """The packages that a model's own code imports whenever it is loaded: file and module; not those within ``try``."""
    classes = (checkpoint.config(CONFIG_FILE).get("auto_map") or {}).values()
    names = [str(each) for value in classes for each in (value if isinstance(value, list) else [value])]
    waiting, seen = [name.split(".")[0] for name in names if "--" not in name], set[str]()
    while waiting:
        stem = waiting.pop()
        file = checkpoint.folder / f"{stem}.py"
        if stem in seen or not file.is_file():
            continue
        seen.add(stem)
        try:
            body = ast.parse(file.read_text(encoding="utf-8")).body
        except (SyntaxError, ValueError):
            continue
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.level:
                waiting += [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield file.name, node.module.split(".")[0]
            elif isinstance(node, ast.Import):
                yield from ((file.name, alias.name.split(".")[0]) for alias in node.names)


def _tied_head(checkpoint: Checkpoint) -> Iterator[Finding]:
    folder, facts = checkpoint.source.path, checkpoint.facts
    tied = facts.tied_embeddings
    if not facts.tied_stated:
        tied = architectures.tied_by_default(facts, checkpoint.use.serve_python) or False
    if folder is None or not tied or (embedding := checkpoint.embedding) is None:
        return
    who = "config.json" if facts.tied_stated else f"model type {facts.model_type}"
    for head in checkpoint.tensors:
        if _HEAD.search(head) and not same_bytes(folder, head, embedding):
            yield Finding(
                f"{checkpoint.name}: its {who} ties the output layer to the embeddings, but {head} differs from "
                f"{embedding}: one engine would use it and another would not",
                "set tie_word_embeddings to false in config.json if the model was trained so, else remove that tensor",
            )


def _tokenizer(checkpoint: Checkpoint) -> Iterator[Finding]:
    folder = checkpoint.folder
    is_complete = checkpoint.source.path is not None or checkpoint.source.pickled is not None
    if is_complete and not any(file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern)):
        yield Finding(f"{folder}: no tokenizer", "download the model again, with its tokenizer files")
    own, added = _vocabulary(checkpoint)
    if not own and not added:
        return
    rows = checkpoint.facts.vocabulary
    if checkpoint.embedding is not None:
        rows = checkpoint.tensors[checkpoint.embedding][1][0]
    if rows is None:
        return
    beyond = {token for token, number in added.items() if number >= rows}
    settings = checkpoint.config("tokenizer_config.json")
    used = beyond & {str(_text(settings.get(f"{role}_token"))) for role in ("bos", "eos")}
    remedy = "use the tokenizer that the model was trained with"
    if count := sum(number >= rows for number in own.values()):
        highest = 1 + max(own.values())
        yield Finding(
            f"{checkpoint.name}: its tokenizer knows {highest} tokens, but the model has embeddings for {rows}: "
            f"{count} tokens would be out of range",
            remedy,
        )
    elif used:
        yield Finding(
            f"{checkpoint.name}: its tokenizer adds {', '.join(sorted(used))} to every prompt or answer, but the model "
            f"has embeddings for only {rows} tokens",
            remedy,
        )
    elif beyond:
        shown = ", ".join(sorted(beyond)[:3]) + (f" and {len(beyond) - 3} more" if len(beyond) > 3 else "")
        yield Finding(
            f"the tokenizer has tokens without an embedding ({shown}): a text that contains one cannot be measured",
            is_refusal=False,
        )


def _vocabulary(checkpoint: Checkpoint) -> tuple[dict[str, int], dict[str, int]]:
    """The tokens that any text may contain, and those added to them, each with its number; empty if unknown."""
    tokenizer = checkpoint.config("tokenizer.json")
    settings = checkpoint.config("tokenizer_config.json")
    try:
        listed = (tokenizer.get("model") or {}).get("vocab") or {}
        if not tokenizer:
            listed = checkpoint.config("vocab.json")
        numbered = listed.items() if isinstance(listed, dict) else ((each[0], i) for i, each in enumerate(listed))
        own = {str(token): int(number) for token, number in numbered}
        added = {str(each["content"]): int(each["id"]) for each in tokenizer.get("added_tokens") or ()}
        for number, token in (settings.get("added_tokens_decoder") or {}).items():
            added[_text(token) or ""] = int(number)
        added.update({token: int(number) for token, number in checkpoint.config("added_tokens.json").items()})
    except (AttributeError, KeyError, TypeError, ValueError):  # of another form: the engines will tell
        return {}, {}
    return {token: number for token, number in own.items() if token not in added}, added


def _text(token: Any) -> str | None:
    """A token as text, from a text or an object with its properties."""
    return token.get("content") if isinstance(token, dict) else token


def grouping(
    source: ModelSource, recipe: Recipe, asked: int | None = None, *, skip_unfit: bool = False
) -> tuple[int | None, bool]:
    """The group size of a recipe for a model, and with `skip_unfit` whether it is known to fit every layer.

    It is what was asked for, else what `Recipe.fitting` finds; None if the recipe has no groups, or if the shapes of
    the model's layers are not known yet. What is part of a format, as in nvfp4, is not changed.
    """
    size = recipe.group_size if recipe.has_fixed_groups else recipe.changed_groups(asked)
    if recipe.group_size is None or (size is not None and not skip_unfit):
        return size, False
    checkpoint = Checkpoint(source, Use())
    try:
        if not checkpoint.tensors or checkpoint.facts.is_quantized:
            return size, False
    except UsageError:  # of the checks, which report it
        return size, False
    widths = linear_inputs(checkpoint.tensors, checkpoint.facts, recipe)
    size = size or recipe.fitting(widths)
    return size, not recipe.with_groups(size).misfits(widths)


def _widths(checkpoint: Checkpoint) -> Iterator[Finding]:
    use = checkpoint.use
    for precision in use.to_quantize:
        own = scheme(precision).recipe
        if own is None or checkpoint.facts.is_quantized:
            continue
        is_here = checkpoint.source.path is not None
        if not (is_here or own.group_size) or not checkpoint.tensors:  # headers on the hub are read for a group size
            continue
        found = linear_inputs(checkpoint.tensors, checkpoint.facts, own)
        widths = {name.removesuffix(".weight"): width for name, width in found.items()}
        remedy = f"leave {precision} out of --precision for this model"
        if not widths and "Linear" in own.targets:
            cause = f"{checkpoint.name} has no {' or '.join(own.targets)} layer to quantize to {precision}"
            yield Finding(cause, remedy, precision=precision)
        asked = own.changed_groups(use.group_size)
        tried = replace(own.with_groups(asked), smaller_groups=()) if asked else own
        recipe = own.with_groups(asked or own.fitting(widths))
        misfits = recipe.misfits(widths)
        if misfits and not (use.skip_unfit and len(misfits) < len(widths)):
            yield Finding(misfit(checkpoint.name, tried, misfits, len(widths)), remedy, precision=precision)
            continue
        if misfits:
            cause = f"{precision}: {len(misfits)} of {len(widths)} layers stay in 16 bit, e.g. {misfits[0]}"
            yield Finding(cause, is_refusal=False, precision=precision)
        if recipe.group_size != own.group_size and asked is None:
            first = next(each for each in own.misfits(widths) if each not in misfits)
            cause = f"{precision}: groups of {recipe.group_size} columns, because {own.group_size} does not fit {first}"
            yield Finding(cause, is_refusal=False, precision=precision)


def misfit(name: str, recipe: Recipe, misfits: Sequence[str], count: int) -> str:
    """The message if a recipe's group size does not fit into some of a model's layers."""
    sizes = " or ".join(map(str, (recipe.group_size, *recipe.smaller_groups)))
    return (
        f"model {name!r}: {recipe.scheme} needs input sizes that are multiples of {sizes}; "
        f"{len(misfits)} of {count} layers do not comply, e.g. {misfits[0]}"
    )


def _other_modalities(checkpoint: Checkpoint) -> Iterator[Finding]:
    if modalities := checkpoint.facts.other_modalities:
        parts = " and ".join(modalities)
        yield Finding(f"the model is for {parts} besides text: only text is measured", is_refusal=False)


#: Everything that is checked, in this order.
CHECKS = (
    Check("configuration", "config.json", _configuration),
    Check("architecture", "config.json, and the models that Transformers and vLLM know", _architecture),
    Check("adapter", "adapter_config.json and adapter_model files", _adapter),
    Check("weight files", "safetensors files and their index", _weight_files),
    Check("layers", "config.json and the names of the weights", _parts),
    Check("quantized already", "config.json", _quantized),
    Check("packages", "config.json, the model's own code, --engine-arg", _packages),
    Check("output layer", "config.json and both embedding tensors", _tied_head),
    Check("tokenizer", "tokenizer files and the embedding's shape", _tokenizer),
    Check("layer widths", "shapes of the weights", _widths),
    Check("modalities", "config.json", _other_modalities),
)
