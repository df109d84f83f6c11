"""Models and their checkpoints, without torch or transformers: where they come from and what their files contain.

A model is named in one of three ways: ``demo`` (the embedded one), a local folder, or a hub id. `resolve` checks in
seconds whether it exists; `fetch` downloads its files; `describe` reads its configuration and the headers of its
weights.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from slim_eval.demo import MODEL_DIR
from slim_eval.errors import HubError, UsageError
from slim_eval.models import gguf, hub
from slim_eval.models.hub import Progress, config_file, download, hub_errors, optional_file
from slim_eval.recognise import adapter_base, of_config, of_name
from slim_eval.schemes import AS_IS, scheme_of
from slim_eval.utils import MIB, files_hash, safe_json

#: The name of the embedded model.
DEMO = "demo"
CONFIG_FILE = "config.json"
#: What a LoRA adapter of peft has in place of it.
ADAPTER_FILE = "adapter_config.json"
#: The weights of an adapter.
ADAPTER_WEIGHTS = "adapter_model.safetensors"
#: How ModelOpt quantized a checkpoint; older versions of it say it nowhere else.
PRODUCER_FILE = "hf_quant_config.json"
#: The parts of a model of sentence-transformers, which its configuration does not show.
_MODULES_FILE = "modules.json"
#: The weights of a checkpoint without an index, and the index of one with several files.
ONE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
#: File patterns of a checkpoint, and of pickled weights that may replace safetensors.
WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py", "*.safetensors")
PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
#: The remedy for a model without other weights.
ALLOW_PICKLE = "pickled weights are read only with --allow-pickle, which converts them"
_HEADER_LIMIT = 100 * 10**6  # bytes; the limit of the safetensors format itself
_SAMPLE_BLOCKS = 64
#: Ending of an architecture's name -> what such a model is. Its class has other weights than a causal language model.
_OTHER_HEADS: dict[str, str | None] = {
    "ForMaskedLM": "an encoder", "ForSequenceClassification": "a classifier", "ForTokenClassification": "a classifier",
    "ForPreTraining": "an encoder", "ForNextSentencePrediction": "an encoder",
    "ForQuestionAnswering": "a question-answering model", "ForMultipleChoice": "a multiple-choice model",
    "RewardModel": "a reward model", "LMHeadModel": None, "Model": "a model without a language-model head",
}  # fmt: skip
#: Model types whose attention is bidirectional unless the configuration says `is_decoder`; Transformers only warns, for
#: those of them that can be causal at all.
_ENCODERS = frozenset({
    "albert", "bert", "bert-generation", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2",
    "distilbert", "electra", "ernie", "esm", "funnel", "longformer", "megatron-bert", "mobilebert", "modernbert",
    "mpnet", "nomic_bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
#: Modality -> what the names of its parts contain, in a configuration and in a file of weights.
MODALITIES = {"vision": re.compile("vision|visual"), "audio": re.compile("audio")}
#: Layers that predict further tokens at once, as Transformers' classes name them in _keys_to_ignore_on_load_unexpected:
#: neither Transformers nor, without speculative decoding, vLLM loads them.
_NEVER_LOADED = r"(?:^|\.)mtp(?:_layers)?\."
#: What the names of the weights contain that text does not need: other modalities, what connects them to it, and what
#: is never loaded.
OTHER_PARTS = re.compile(
    "|".join(
        [*(each.pattern for each in MODALITIES.values()), "image", "multi_modal", "mm_proj", "connector", _NEVER_LOADED]
    )
)
_MAX_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")

#: Tensor name -> (dtype as safetensors names it, shape).
Tensors = dict[str, tuple[str, tuple[int, ...]]]


class Frozen(BaseModel):
    """A value that travels to a worker as JSON: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSource(Frozen):
    """A model that exists."""

    name: str  # as the user gave it
    kind: Literal["demo", "local", "hub", "endpoint"]  # endpoint: somebody else serves it, from weights unknown here
    #: With config.json; for the hub it may contain nothing else yet. A GGUF file itself; of one on the hub, its header.
    config_dir: Path
    path: Path | None = None  # the whole checkpoint; None until it is fetched and, if pickled, converted
    pickled: Path | None = None  # with pickled weights that must be converted; None without such
    revision: str | None = None  # commit on the hub; None for a model from elsewhere
    base: ModelSource | None = None  # of a LoRA adapter: the model that it changes; `config_dir` is then that model's
    adapter: Path | None = None  # folder of a LoRA adapter; of one on the hub, its weights may not be there yet
    file: str | None = None  # of a repository on the hub with GGUF files: the one that is meant

    @property
    def repository(self) -> str:
        """Id of a model on the hub, whose name may add which of its GGUF files is meant."""
        return self.name if self.file is None else self.name.partition(":")[0]


class ConfigFacts(Frozen):
    """Contents of ``config.json``; None for what it does not state."""

    architecture: str | None  # first class name listed
    model_type: str | None  # its family, e.g. llama
    not_causal: str | None = None  # what it is, if not a causal language model, e.g. an encoder-decoder
    dtype: str  # the 16-bit dtype to serve: float16 if stated, else bfloat16 (also for a float32 model)
    dtype_stated: bool  # whether the configuration names a dtype at all
    max_position_embeddings: int | None  # context window in tokens
    tied_embeddings: bool  # whether input and output embeddings are one tensor
    quantization: str | None  # format of an already quantized checkpoint, e.g. awq; None for a plain one
    scheme: str | None = None  # how it is quantized, as `recognise` names it: ``w4a16-awq g128``; None for a plain one
    is_packed: bool = False  # whether several quantized weights share an integer, as compressed-tensors packs 4 bit
    attention_layers: int | None = None  # layers with keys and values
    kv_heads: int | None = None  # key-value heads per layer
    head_size: int | None = None  # elements per head
    vocabulary: int | None = None  # rows of the embedding table
    tied_stated: bool = True  # whether the configuration says so, or leaves it to the model's family
    has_own_code: bool = False  # whether its class is Python code that comes with it
    other_modalities: tuple[str, ...] = ()  # that it has besides text: vision, audio

    @property
    def is_quantized(self) -> bool:
        """Whether the weights of the checkpoint are quantized."""
        return self.quantization is not None


class CheckpointFacts(ConfigFacts):
    """Contents of a whole checkpoint."""

    num_parameters: int | None  # of the language part, tied ones once; None for one that packs its quantized weights
    weight_bytes: int  # size of the weight files
    language_bytes: int  # of the tensors of the language part, those of an unquantized one at 16 bit


def resolve(
    name: str, revision: str | None = None, *, allow_pickle: bool = False, base: str | None = None
) -> ModelSource:
    """Find a model: ``demo``, a folder, or a hub id such as ``org/name``, of which only ``config.json`` is fetched.

    Only hub models have a `revision` (branch, tag or commit). With `allow_pickle` a folder may have only pickled
    weights. A LoRA adapter is a model too, if its base model is found: `base`, else the one that it names. A GGUF file
    is named by its path, or as ``org/name:q8_0`` on the hub; the only one of a folder or repository by that alone.

    Raises:
        UsageError: A folder without ``config.json``, a malformed id, an unknown revision.
        HubError: The model does not exist or is not accessible, or the hub cannot be reached.
    """
    if name == DEMO or is_path(name):
        folder = MODEL_DIR if name == DEMO else Path(name).expanduser()
        if files := _gguf_files(folder):
            (file,) = gguf.choose(f"model folder {name!r}", files, ()).values()
            path = folder if folder.is_file() else folder / file
            return ModelSource(name=name, kind="local", config_dir=path.resolve(), path=path.resolve())
        try:
            there = (folder / CONFIG_FILE).is_file()
            what = "has no config.json" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
            if not there and (folder / ADAPTER_FILE).is_file():
                return _adapter(name, folder.resolve(), None, base, allow_pickle=allow_pickle)
        except OSError as error:
            there, what = False, f"cannot be read ({error.strerror})"
        if not there:
            raise UsageError(f"model folder {name!r} {what}", "give a folder with config.json and weights, or a hub id")
        folder = folder.resolve()
        pickled = allow_pickle and not has_safetensors(folder) and pickled_files(folder)
        source = ModelSource(name=name, kind="demo" if name == DEMO else "local", config_dir=folder)
        return source.model_copy(update={"pickled": folder} if pickled else {"path": folder})
    repository, _, scheme = name.partition(":")
    if scheme:
        if found := _on_hub(repository, [scheme], revision):
            return found[0]
        raise UsageError(f"model {repository!r} has no GGUF files on the hub", "give its id alone")
    with hub_errors(name, revision):
        from huggingface_hub.errors import EntryNotFoundError

        config = None
        try:
            config = config_file(name, revision)
        except EntryNotFoundError:
            if (adapter := optional_file(name, ADAPTER_FILE, revision)) is not None:
                return _adapter(name, adapter.parent, adapter.parent.name, base, allow_pickle=allow_pickle)
            if not gguf.models_in(hub.file_names(name, revision)[1]):
                raise
    if config is None:
        return _on_hub(name, (), revision)[0]
    # The cache's layout is public: snapshots/{commit}/{file}. Older checkpoints of ModelOpt say in a file of their own,
    # and nowhere else, that they are quantized.
    if not read_json(config).get("quantization_config"):
        optional_file(name, PRODUCER_FILE, config.parent.name)
    optional_file(name, _MODULES_FILE, config.parent.name)
    return ModelSource(name=name, kind="hub", config_dir=config.parent, revision=config.parent.name)


def resolve_gguf(name: str, schemes: Sequence[str], revision: str | None = None) -> list[ModelSource]:
    """The GGUF files of a folder or of a repository on the hub that have these schemes; none without GGUF files.

    Raises:
        UsageError: A scheme has no file or several.
        HubError: The repository does not exist or is not accessible.
    """
    folder = Path(name).expanduser()
    if not is_path(name):
        return [] if name == DEMO or ":" in name else _on_hub(name, schemes, revision)
    if folder.is_file() or not (files := _gguf_files(folder)):
        return []
    chosen = gguf.choose(f"model folder {name!r}", files, schemes)
    return [resolve(str(Path(name, file))) for file in chosen.values()]


def _on_hub(name: str, schemes: Sequence[str], revision: str | None) -> list[ModelSource]:
    """`resolve_gguf` on the hub, from which the headers are fetched; without schemes the only file."""
    with hub.hub_errors(name, revision):
        commit, names = hub.file_names(name, revision)
        if not (files := gguf.models_in(names)):
            return []
        sources = []
        for scheme, file in gguf.choose(f"model {name!r}", files, schemes).items():
            header, *_ = [hub.beginning(name, part, commit, gguf.header_bytes) for part in gguf.part_names(file)]
            sources.append(
                ModelSource(name=f"{name}:{scheme}", kind="hub", config_dir=header, revision=commit, file=file)
            )
        return sources


def _adapter(name: str, folder: Path, revision: str | None, base: str | None, *, allow_pickle: bool) -> ModelSource:
    """A LoRA adapter, with its base model; a UsageError if it is another kind, or its base model cannot be used."""
    config = read_json(folder / ADAPTER_FILE)
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind != "LORA":
        raise UsageError(f"adapter {name!r} is of kind {kind}", "merge it by hand: slim-eval merges LoRA adapters only")
    asked = base or adapter_base(config)
    remedy = "give --base-model with the model that it was trained on: a folder or a hub id"
    if asked is None:
        raise UsageError(f"adapter {name!r} names no base model", remedy)
    try:
        found = resolve(asked, allow_pickle=allow_pickle)
    except (HubError, UsageError) as error:
        raise UsageError(f"adapter {name!r}: its base model cannot be used: {error.cause}", remedy) from error
    if found.base is not None or found.pickled is not None:
        what = "an adapter itself" if found.base is not None else "pickled"
        raise UsageError(f"adapter {name!r}: its base model {asked!r} is {what}", "merge or convert that one first")
    if (own := describe_config(found.config_dir).scheme) is not None:
        cause = f"adapter {name!r}: its base model {asked!r} is quantized ({own}), and adapters are merged in 16 bit"
        raise UsageError(cause, "give --base-model with the 16-bit model")
    if revision is None:
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise UsageError(f"adapter {name!r} has no {ADAPTER_WEIGHTS}", "save it with save_pretrained() of peft")
        read_header(folder / ADAPTER_WEIGHTS)
    return ModelSource(
        name=name,
        kind="local" if revision is None else "hub",
        config_dir=found.config_dir,
        revision=revision,
        base=found,
        adapter=folder,
    )


def _gguf_files(path: Path) -> list[str]:
    """The names of the GGUF models that a path names: of that file, or of a folder without a checkpoint."""
    with suppress(OSError):
        if path.is_file():
            return [path.name] if gguf.is_gguf(path) else []
        if path.is_dir() and not (path / CONFIG_FILE).exists():
            return gguf.models_in(file.name for file in path.iterdir())
    return []


def at_endpoint(name: str, revision: str | None = None) -> ModelSource:
    """A model that an endpoint serves, by the name to record; its configuration is found if `resolve` finds the model.

    Its weights are never read: they need not be those that the endpoint serves.
    """
    try:
        found = resolve(name, revision, allow_pickle=True)
    except (UsageError, HubError):
        nowhere = Path(os.devnull)
        return ModelSource(name=name, kind="endpoint", config_dir=nowhere, path=nowhere)
    return found.model_copy(update={"kind": "endpoint", "path": found.config_dir, "pickled": None})


def fetch(
    source: ModelSource, *, allow_pickle: bool = False, progress: Progress = lambda done, total, unit: None
) -> ModelSource:
    """Download the whole checkpoint of a resolved model, and return the source as `fetched` gives it.

    With `allow_pickle`, pickled weights are downloaded if the model has no others. `progress` gets the MB downloaded.
    A HubError says that the hub refused or broke off, or that the model has no weights of these kinds.
    """
    if source.path is not None or source.pickled is not None:
        return source
    if source.base is not None:
        folder = download(source.name, source.revision, ("adapter_*.json", ADAPTER_WEIGHTS), progress)
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise HubError(f"adapter {source.name!r} has no {ADAPTER_WEIGHTS} on the hub", "choose another adapter")
        return source.model_copy(update={"adapter": folder})
    if source.file is not None:
        parts = gguf.part_names(source.file)
        return fetched(source, download(source.repository, source.revision, parts, progress) / source.file)
    folder = download(source.name, source.revision, WANTED, progress)
    usable = has_safetensors(folder)
    if allow_pickle and not usable:
        usable = bool(pickled_files(download(source.name, source.revision, PICKLED, progress)))
    if usable:
        return fetched(source, folder)
    remedy = "it has no pickled weights either: choose another model" if allow_pickle else ALLOW_PICKLE
    raise HubError(f"model {source.name!r} has no weights in the safetensors format on the hub", remedy)


def fetched(source: ModelSource, folder: Path) -> ModelSource:
    """The source with its `path`, or with `pickled` if the weights in the folder must be converted first."""
    if source.file is not None:
        return source.model_copy(update={"path": folder, "config_dir": folder})
    return source.model_copy(update={"path": folder} if has_safetensors(folder) else {"pickled": folder})


def has_safetensors(folder: Path) -> bool:
    """Whether a checkpoint has weights in the safetensors format."""
    return (folder / INDEX_FILE).exists() or bool(_safetensors(folder))


def _safetensors(folder: Path) -> list[Path]:
    """The files of weights, without those of an adapter and second copies in another layout."""
    found = folder.glob("*.safetensors")
    return sorted(path for path in found if not path.name.startswith(("consolidated", "adapter_")))


def pickled_files(folder: Path) -> list[Path]:
    """The pickled weight files of a checkpoint, sorted by name; not those of optimisers and adapters."""
    return sorted(path for pattern in PICKLED if pattern.endswith(".bin") for path in folder.glob(pattern))


def facts_of(source: ModelSource) -> ConfigFacts:
    """The configuration of a model; of one at an endpoint what is known of it here, which is not how it is quantized.

    A UsageError if it cannot be read.
    """
    if source.kind != "endpoint":
        return describe_config(source.config_dir)
    if gguf.is_gguf(source.config_dir) or (source.config_dir / CONFIG_FILE).is_file():
        facts = describe_config(source.config_dir)
    else:
        facts = ConfigFacts(
            architecture=None, model_type=None, dtype="bfloat16", dtype_stated=True, max_position_embeddings=None,
            tied_embeddings=False, quantization=None,
        )  # fmt: skip
    return facts.model_copy(update={"dtype_stated": True, "scheme": facts.scheme or of_name(source.name)})


def _gguf_config(file: Path) -> ConfigFacts:
    """The same of a GGUF file."""
    header = gguf.read(file)
    return ConfigFacts(
        architecture=header.architecture,
        model_type=header.architecture,
        dtype="float16",
        dtype_stated=True,
        max_position_embeddings=header.context,
        tied_embeddings=header.tied,
        quantization="gguf",
        scheme=header.scheme,
        attention_layers=header.layers,
        kv_heads=header.kv_heads,
        head_size=header.head_size,
        vocabulary=header.vocabulary,
    )


def describe_config(folder: Path) -> ConfigFacts:
    """Read ``config.json``; a UsageError if it is missing, or not of the form that Transformers writes.

    Of a GGUF file, its header.
    """
    if gguf.is_gguf(folder) and folder.is_file():
        return _gguf_config(folder)
    config = read_json(folder / CONFIG_FILE)

    def first(mappings: Sequence[Mapping[str, Any]], *keys: str) -> Any:
        """The first value that is not null, mapping by mapping."""
        return next((each[key] for each in mappings for key in keys if each.get(key) is not None), None)

    def count(merged: Mapping[str, Any], *keys: str) -> int | None:
        """A number of the configuration; None if it is missing or, as in some models, differs between layers."""
        value = first([merged], *keys)
        return value if isinstance(value, int) else None

    try:
        text = config.get("text_config") or {}
        merged = {**config, **text}
        stated = first([text, config], "dtype", "torch_dtype")
        quantization = first([config, text], "quantization_config", "compression_config") or None
        producer = read_json(folder / PRODUCER_FILE) if (folder / PRODUCER_FILE).is_file() else None
        quantization = quantization or ({"quant_method": "modelopt"} if producer else None)
        architectures = config.get("architectures") or [None]
        attention: dict[str, Any] = {}
        if merged.get("kv_lora_rank") is None:  # compressed keys and values, such as DeepSeek's, have another shape
            kinds = merged.get("layer_types")
            attentive = [kind for kind in kinds or () if "attention" in str(kind) and "linear" not in str(kind)]
            heads, width = count(merged, "num_attention_heads", "n_head"), count(merged, "hidden_size", "n_embd")
            attention = {
                "attention_layers": len(attentive) if kinds else count(merged, "num_hidden_layers", "n_layer"),
                "kv_heads": count(merged, "num_key_value_heads", "num_attention_heads", "n_head"),
                "head_size": count(merged, "head_dim") or (width // heads if width and heads else None),
            }
        other = next((kind for head, kind in _OTHER_HEADS.items() if str(architectures[0]).endswith(head)), None)
        if other is None and config.get("model_type") in _ENCODERS and not config.get("is_decoder"):
            other = "an encoder"
        other = "an encoder-decoder" if config.get("is_encoder_decoder") else other
        own_code = "AutoModelForCausalLM" in (config.get("auto_map") or {})  # its class may have any name
        other = None if own_code else other
        return ConfigFacts(
            architecture=architectures[0],
            not_causal="an embedding model" if _pools(folder) else other,
            model_type=config.get("model_type"),
            dtype="float16" if str(stated).removeprefix("torch.") in ("float16", "half") else "bfloat16",
            dtype_stated=stated is not None,
            max_position_embeddings=first([text, config], *_MAX_POSITION_KEYS),
            tied_embeddings=bool(first([config, text], "tie_word_embeddings")),
            tied_stated=first([config, text], "tie_word_embeddings") is not None,
            vocabulary=count(merged, "vocab_size"),
            has_own_code=own_code,
            other_modalities=tuple(
                modality
                for modality, part in MODALITIES.items()
                if any(part.search(key) and isinstance(value, dict) for key, value in config.items())
            ),
            quantization=str(quantization.get("quant_method", "unknown")) if quantization else None,
            scheme=of_config(quantization, producer) if quantization else None,
            is_packed=quantization is not None and quantization.get("format") == "pack-quantized",
            **attention,
        )
    except (AttributeError, TypeError, LookupError, ValidationError) as error:
        raise UsageError(f"{folder / CONFIG_FILE}: not a model configuration", "download the model again") from error


def _pools(folder: Path) -> bool:
    """Whether sentence-transformers makes one vector of a text by this model, whatever its architecture is."""
    modules: Any = None
    with suppress(OSError, ValueError):
        modules = safe_json.read_json(folder / _MODULES_FILE)
    parts = modules if isinstance(modules, list) else []
    return any(isinstance(part, dict) and str(part.get("type")).endswith("Pooling") for part in parts)


def describe(folder: Path) -> CheckpointFacts:
    """Read a checkpoint's configuration and the headers of its weight files; no weight is loaded.

    A UsageError says which file is missing, truncated, or not what its name says.
    """
    facts = describe_config(folder)
    files = weight_files(folder)
    if gguf.is_gguf(folder):
        header = gguf.read(folder)
        size = sum(file.stat().st_size for file in files)
        return CheckpointFacts(
            **facts.model_dump(),
            num_parameters=header.parameters,
            weight_bytes=size,
            language_bytes=header.weight_bytes,
        )
    tensors: Tensors = {}
    for file in files:
        tensors.update(read_header(file))
    values = facts.model_dump()
    if not facts.dtype_stated and any(kind == "F16" for kind, _ in tensors.values()):
        values["dtype"] = "float16"
    count = sum(math.prod(shape) for shape in parameters(tensors, facts.tied_embeddings).values())
    size = sum(file.stat().st_size for file in files)
    kept = [tensor for name, tensor in tensors.items() if _is_counted(name, tensors, facts.tied_embeddings)]
    held = 2 * count if not facts.is_quantized else sum(tensor_bytes(kind, shape) for kind, shape in kept)
    return CheckpointFacts(
        **values, num_parameters=None if facts.is_quantized else count, weight_bytes=size, language_bytes=int(held)
    )


def require_plain(source: ModelSource, facts: ConfigFacts, precision: str) -> None:
    """Refuse, with a UsageError, to quantize a checkpoint that is quantized already."""
    if scheme_of(precision).needs_plain_weights and facts.is_quantized:
        raise UsageError(
            f"model {source.name!r} is already quantized ({facts.scheme}) and cannot be quantized to {precision}",
            f"measure it as it is with --precision {AS_IS}, or give the unquantized model",
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted by name: those listed in its index, else all.

    A UsageError if there are none, or a listed one is missing. Of a GGUF file, its parts.
    """
    if gguf.is_gguf(folder):
        return gguf.parts_of(folder)
    index = folder / INDEX_FILE
    if index.exists():
        names = sorted(set((read_json(index).get("weight_map") or {}).values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            cause = f"{folder}: {len(missing)} of {len(names)} weight files are missing, e.g. {missing[0]}"
            raise UsageError(cause, "download the model again")
        files = [folder / name for name in names]
    else:
        files = _safetensors(folder)
    if not files:
        remedy = ALLOW_PICKLE if pickled_files(folder) else "give the folder of a complete checkpoint"
        raise UsageError(f"{folder}: no weights in the safetensors format", remedy)
    return files


def read_header(file: Path) -> Tensors:
    """The tensors of one file; a UsageError if it is truncated or not a safetensors file."""
    return {name: (span.kind, span.shape) for name, span in read_spans(file).items()}


def same_bytes(folder: Path, name: str, other: str) -> bool:
    """Whether two tensors of a local checkpoint have the same dtype, shape and values, compared byte by byte."""
    found = {}
    for file in weight_files(folder):
        header = read_spans(file)
        found.update({each: (file, *header[each]) for each in (name, other) if each in header})
    (file, *what, start, end), (other_file, *other_what, other_start, _) = found[name], found[other]
    if what != other_what:
        return False
    with file.open("rb") as stream, other_file.open("rb") as other_stream:
        stream.seek(start)
        other_stream.seek(other_start)
        for left in range(end - start, 0, -MIB):
            if stream.read(min(MIB, left)) != other_stream.read(min(MIB, left)):
                return False
    return True


class Span(NamedTuple):
    """A tensor in a safetensors file."""

    kind: str  # its dtype, as safetensors names it
    shape: tuple[int, ...]
    begin: int  # where its bytes begin and end in the file
    end: int


def read_spans(file: Path) -> dict[str, Span]:
    """The tensors of one file and where they are in it; errors as of `read_header`."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _HEADER_LIMIT:
            raise UsageError(f"{file}: not a safetensors file", "if it is a git-lfs pointer, run `git lfs pull`")
        text = stream.read(length)
    try:
        header = safe_json.parse(text.decode())
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {}
        for name, entry in header.items():
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = Span(str(entry["dtype"]), tuple(entry["shape"]), first, last)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{file}: its header is damaged or incomplete", "download the model again") from error
    if 8 + length + end != size:
        cause = f"{file}: has {size} bytes, its header requires {8 + length + end}"
        raise UsageError(cause, "it is incomplete: download the model again")
    return tensors


def read_tensors(source: ModelSource) -> Tensors:
    """The tensors of a model, from the headers of its weight files; only these are fetched from the hub.

    Raises:
        HubError: The hub refused or cannot be reached, or the model has no safetensors weights.
        UsageError: A file is missing, truncated, or not what its name says.
    """
    folder = source.path
    if folder is None and source.base is not None:  # merged, it has the same
        return read_tensors(source.base)
    if folder is not None and gguf.is_gguf(folder):
        raise UsageError(f"model {source.name!r} is a GGUF file, which has no such header")
    # The hub's cache may have the files already: snapshots/{commit}.
    if folder is None and source.config_dir.name == source.revision and has_safetensors(source.config_dir):
        with suppress(UsageError):
            return read_tensors(source.model_copy(update={"path": source.config_dir}))
    if folder is not None:
        return {name: tensor for file in weight_files(folder) for name, tensor in read_header(file).items()}
    if source.pickled is not None:
        raise UsageError(f"model {source.name!r} has pickled weights, which have no header", "convert them first")
    from huggingface_hub import errors, get_safetensors_metadata

    with hub_errors(source.name, source.revision):
        try:
            files = get_safetensors_metadata(source.name, revision=source.revision).files_metadata.values()
        except (errors.NotASafetensorsRepoError, errors.SafetensorsParsingError) as error:
            cause = f"model {source.name!r} has no readable weights in the safetensors format on the hub"
            raise HubError(cause, "give a folder with safetensors weights") from error
    return {name: (str(t.dtype), tuple(t.shape)) for file in files for name, t in file.tensors.items()}


def bytes_here(source: ModelSource) -> int:
    """Bytes of a model's weight files here, pickled ones too; 0 before the download, a UsageError if one is missing."""
    if source.path is not None:
        files = weight_files(source.path)
    else:
        files = [] if source.pickled is None else pickled_files(source.pickled)
    return sum(file.stat().st_size for file in files)


def tensor_bytes(kind: str, shape: Sequence[int]) -> float:
    """Bytes of a tensor of a dtype as safetensors names it, such as ``BF16``, ``I8`` or ``F8_E4M3``."""
    bits = 8 if kind == "BOOL" else int(re.sub(r"^[A-Z]+(\d+).*$", r"\1", kind))
    return math.prod(shape) * bits / 8


def parameters(tensors: Tensors, tied: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the floating-point tensors of the language part, tied ones once.

    Masks and position ids, which old files have, are not counted. Parts for images and sound are not either: an engine
    may load them or not, and llm-compressor may write them or not. Layers that predict further tokens are not loaded.
    """
    return {
        name: shape
        for name, (kind, shape) in tensors.items()
        if kind.startswith(("F", "BF")) and not name.endswith("inv_freq") and _is_counted(name, tensors, tied)
    }


def _is_counted(name: str, tensors: Tensors, tied: bool) -> bool:
    """Whether a tensor belongs to the language part of a model, and is not a second copy of tied embeddings."""
    copied = tied and name.endswith("lm_head.weight") and any(each.endswith("embed_tokens.weight") for each in tensors)
    return not copied and not OTHER_PARTS.search(name)


def fingerprint(folder: Path) -> str:
    """SHA-256 over the configuration and the weights of a local checkpoint.

    Files up to 64 MiB are read whole; of larger ones 64 blocks of 1 MiB at even distances, which distinguishes two
    trained states without reading hundreds of gigabytes.
    """
    is_gguf = gguf.is_gguf(folder)
    digest = hashlib.sha256(b"" if is_gguf else (folder / CONFIG_FILE).read_bytes())
    for file in weight_files(folder) if is_gguf or has_safetensors(folder) else pickled_files(folder):
        size = file.stat().st_size
        digest.update(f"\0{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= _SAMPLE_BLOCKS * MIB:
                digest.update(stream.read())
                continue
            for block in range(_SAMPLE_BLOCKS):
                stream.seek(block * (size - MIB) // (_SAMPLE_BLOCKS - 1))
                digest.update(stream.read(MIB))
    return digest.hexdigest()


def is_path(name: str) -> bool:
    """Whether a model's name means a local folder, not a hub id."""
    try:
        return bool(re.match(r"\.{1,2}(/|$)|[/~\\]", name)) or Path(name).exists()
    except OSError:  # longer than any file name
        return False


def small_files_hash(folder: Path) -> str:
    """SHA-256 of a local checkpoint's files other than its weights: tokenizer, chat template, code."""
    wanted = [pattern for pattern in WANTED if pattern != "*.safetensors"]
    return files_hash(folder, sorted({path for pattern in wanted for path in folder.glob(pattern) if path.is_file()}))


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object of a file of a checkpoint; a UsageError if it is not one."""
    try:
        content = safe_json.read_json(file)
    except (OSError, ValueError) as error:
        reason = f" ({error})" if isinstance(error, safe_json.LimitError) else ""
        raise UsageError(f"{file}: not readable as JSON{reason}", "download the model again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file}: not a JSON object", "download the model again")
    return content
