"""What a quantized model says of itself, as the name of a scheme: ``w4a16-awq g128``, ``w8a8``, ``fp8``, ``bnb-4bit``.

It may say so in ``config.json`` (every dialect of ``quantization_config``) or NVIDIA ModelOpt's
``hf_quant_config.json``, in the options that it was loaded with, or in its name, its revision or the name of its GGUF
file. Importers and `slim-eval run` read all of them here. A quantized model is never called fp16: if nothing says how
it is quantized, it is `UNKNOWN`, or the user is asked.

A name is made of the formats (``w4a16``: 4-bit integer weights, 16-bit activations), the method if it has its own
kernels, and what else distinguishes two checkpoints: ``g128`` columns share a scale, ``+kv8`` is an 8-bit KV cache,
``+kv-q8_0`` one of llama.cpp's types or of another format, ``+lora`` an adapter that is not merged.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: A model that is quantized, nothing says how.
UNKNOWN = "quantized"
#: Weights of 32 bits: not quantized, and not the 16-bit baseline either.
FP32 = "fp32"
KV8, LORA = "+kv8", "+lora"

Mapped = Mapping[str, Any]


@dataclass(frozen=True)
class Marked:
    """What the options of a run, or names, say of the model that it measured."""

    marker: str = ""  # the option or the name that says that its weights are quantized; empty if none does
    scheme: str | None = None  # of the weights; None if they are not quantized, or it is not said how
    endings: str = ""  # what else is not as in the baseline: ``+kv8``, ``+lora``

    def name(self, plain: str | None) -> str | None:
        """The name of the scheme; `plain` is that of the same run without all this. None if it is not known."""
        weights = self.scheme if self.marker else plain
        return None if weights is None else with_endings(weights, self.endings)


def with_endings(name: str, endings: str) -> str:
    """A scheme's name with those endings that it does not have."""
    return name + "".join(f"+{each}" for each in endings.split("+") if each and f"+{each}" not in name)


# ----------------------------------------------------------------------------------------------- a checkpoint's files


def of_config(quantization: Mapped, producer: Mapped | None = None) -> str:
    """The scheme of a checkpoint.

    Args:
        quantization: ``quantization_config`` (or ``compression_config``) of ``config.json``; may be empty.
        producer: The content of ModelOpt's ``hf_quant_config.json``; None without one.
    """
    if producer is not None and _plain(quantization.get("quant_method") or "modelopt").startswith("modelopt"):
        quantization = {**quantization, "quant_method": "modelopt", **_object(producer.get("quantization", producer))}
    method = _plain(quantization.get("quant_method") or quantization.get("quant_type") or "")
    found = _METHODS[method](quantization) if method in _METHODS else _other(method, quantization)
    return found + _cache_of(quantization)


def _cache_of(quantization: Mapped) -> str:
    """How a checkpoint's KV cache is held, as the ending of a name; empty for 16 bits."""
    inner, export = _object(quantization.get("quantization")), _object(quantization.get("export"))
    cache = next(
        (
            each[key]
            for each in (quantization, inner)
            for key in ("kv_cache_scheme", "kv_cache_quant_algo")
            if each.get(key)
        ),
        "fp8" if export.get("kv_cache_group") else None,  # Quark's
    )
    if isinstance(cache, dict):
        bits, kind = _number(cache.get("num_bits")) or 8, str(cache.get("type") or "float")
        cache = f"{'int' if kind == 'int' else 'fp'}{bits:g}"
    text = _plain(cache or "")
    if text in ("", "none", "auto", "16", "fp16", "bf16"):
        return ""
    known = re.fullmatch(r"int[248]|fp4|nvfp4|mxfp[48]", text)
    return f"+kv-{text}" if known else KV8


def adapter_base(adapter: Mapped) -> str | None:
    """The model that an adapter changes, from ``adapter_config.json``; None if it names none."""
    base = adapter.get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def base_model(card: Mapped) -> str | None:
    """The model that one was made from, by the front matter of its card; None if it names none, or several."""
    named = card.get("base_model")
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return names[0] if len(names) == 1 and isinstance(names[0], str) and names[0].strip() else None


def _compressed_tensors(config: Mapped) -> str:
    """Groups of layers, each with the formats of its weights and activations; a group may be a preset's name."""
    found: dict[str, None] = {}
    for name, group in _object(config.get("config_groups")).items():
        weights = _object(_object(group).get("weights"))
        preset = _PRESETS.get(_plain(name)) or of_name(name)
        formats = _formats(weights, _object(_object(group).get("input_activations"))) if weights else preset
        if formats:
            found[formats] = None
    if "sparse" in str(_object(config.get("sparsity_config")).get("format")) and not found:
        return "sparse"
    if not found:
        return "compressed-tensors"
    return next(iter(found)) if len(found) == 1 else "mixed-" + "-".join(sorted(name.split()[0] for name in found))


def _formats(weights: Mapped, activations: Mapped) -> str:
    """One group of compressed-tensors or ModelOpt: ``w4a16 g128``, ``fp8``, ``nvfp4``."""
    bits, act_bits = _number(weights.get("num_bits")) or 16, _number(activations.get("num_bits")) or 16
    group, strategy = _number(weights.get("group_size")), str(weights.get("strategy"))
    if weights.get("type") == "float" and bits == 4:
        kind = "mxfp4" if group == 32 else "nvfp4"
        return kind + {4.0: "", 16.0: "a16"}.get(act_bits, f"a{act_bits:g}")
    if weights.get("type") == "float" and bits == 8:
        if act_bits == 16:
            return "w8a16-fp8"
        if group == 32:
            return "mxfp8"
        if strategy == "block" or weights.get("block_structure"):
            return "fp8-block"
        return "fp8-static" if activations.get("dynamic") is False else "fp8"
    is_float = activations.get("type") == "float" and act_bits == 8
    asymmetric = "asym" if weights.get("symmetric") is False else ""
    return _integers(bits, act_bits, "fp8" if is_float else asymmetric, group)


def _integers(bits: float, act_bits: float = 16, method: str = "", group: float | None = None) -> str:
    name = f"w{bits:g}a{act_bits:g}" + (f"-{method}" if method else "")
    return f"{name} g{group:g}" if group and group > 0 else name


def _weight_only(method: str) -> Callable[[Mapped], str]:
    """Integer weights of a method that states bits and a group size."""

    def named(config: Mapped) -> str:
        bits = next((n for key in _BITS if (n := _number(config.get(key)))), 4.0 if method == "awq" else None)
        group = next(
            (n for key in ("group_size", "q_group_size", "groupsize") if (n := _number(config.get(key)))), None
        )
        return method if bits is None else _integers(bits, method=method, group=group)

    return named


def _bitsandbytes(config: Mapped) -> str:
    if any(_is_on(config.get(key)) for key in ("load_in_8bit", "_load_in_8bit")):
        return "bnb-8bit"
    return "bnb-4bit" if any(_is_on(config.get(key)) for key in ("load_in_4bit", "_load_in_4bit")) else "bnb"


def _autoround(config: Mapped) -> str:
    activations, kind = _number(config.get("act_bits")) or 16, str(config.get("data_type") or "int")
    weights = _weight_only("autoround")(config)
    if activations >= 16 and kind.startswith("int"):
        return weights
    bits, group = _number(config.get("bits")) or 4, _number(config.get("group_size"))
    if kind.startswith(("mx", "nv")):
        ending = "" if activations == bits else f"a{min(activations, 16):g}"
        return f"{kind[:2]}fp{bits:g}{ending}-autoround"
    if kind.startswith("fp"):
        return "fp8-autoround" if activations == bits == 8 else _integers(bits, activations, "fp-autoround", group)
    return _integers(bits, activations, "autoround", group)


def _quark(config: Mapped) -> str:
    """AMD Quark: one format for all layers, that of its ``global_quant_config``."""
    layers = _object(config.get("global_quant_config"))
    weights, inputs = _object(layers.get("weight")), _object(layers.get("input_tensors"))
    kind, act_kind = str(weights.get("dtype") or ""), str(inputs.get("dtype") or "")
    bits, act_bits = (
        float(found[1]) if (found := re.search(r"(?:fp|int)(\d+)", text)) else 16.0 for text in (kind, act_kind)
    )
    group = _number(weights.get("group_size"))
    if not kind:
        return "quark"
    if kind.startswith("fp4"):
        return "mxfp4" + ("" if act_bits == 4 else f"a{act_bits:g}") + "-quark"
    if kind.startswith("fp8"):
        if act_bits == 16:
            return "w8a16-fp8-quark"
        return "fp8-static-quark" if inputs.get("is_dynamic") is False else "fp8-quark"
    return _integers(bits, act_bits, "fp8-quark" if act_kind.startswith("fp8") else "quark", group)


def _fp8(config: Mapped) -> str:
    if config.get("weight_block_size"):
        return "fp8-block"
    return "fp8-static" if str(config.get("activation_scheme")) == "static" else "fp8"


def _modelopt(config: Mapped) -> str:
    inner = _object(config.get("quantization"))
    algorithm = _plain(config.get("quant_algo") or inner.get("quant_algo") or "")
    group = _number(config.get("group_size") or inner.get("group_size"))
    if config.get("config_groups") and (algorithm == "mixed-precision" or algorithm not in _MODELOPT):
        return _compressed_tensors(config)
    if known := _MODELOPT.get(algorithm):
        return f"{known} g{group:g}" if group and "awq" in known and known.startswith("w") else known
    if named := of_name(algorithm):
        return f"{named} g{group:g}" if group and named.startswith("w") and " g" not in named else named
    return f"modelopt-{algorithm}" if algorithm else "modelopt"


def _hqq(config: Mapped) -> str:
    text = json.dumps(config, default=str)
    bits, group = (re.search(rf'"{key}": (\d+)', text) for key in ("nbits", "group_size"))
    return ("hqq" if bits is None else f"hqq-{bits[1]}bit") + ("" if group is None else f" g{group[1]}")


def _quanto(config: Mapped) -> str:
    weights, activations = str(config.get("weights") or ""), str(config.get("activations") or "")
    if weights == "float8":
        return "w8a16-fp8-quanto" if activations in ("", "None") else "fp8-quanto"
    bits, act_bits = (re.fullmatch(r"int(\d)", text) for text in (weights, activations))
    return "quanto" if bits is None else _integers(float(bits[1]), float(act_bits[1]) if act_bits else 16, "quanto")


def _torchao(config: Mapped) -> str:
    kind = config.get("quant_type")
    text = json.dumps(config, default=str)
    while isinstance(kind, dict) and kind:
        kind = kind.get("_type") or kind.get("default") or next(iter(kind.values()))
    if not isinstance(kind, str) or not kind:
        return "torchao"
    # ``int4_weight_only`` and ``Int4WeightOnlyConfig`` are one.
    short = re.sub(r"[^a-z0-9]|config(?:v\d)?$", "", kind.lower())
    group = re.search(r'"group_size": (\d+)', text)
    formats = _TORCHAO_CONFIGS.get(short, "mixed" if "fqn" in short else _plain(kind))
    return f"torchao-{formats}" + (f" g{group[1]}" if group is not None and formats != "mixed" else "")


def _aqlm(config: Mapped) -> str:
    books, bits, group = (_number(config.get(k)) for k in ("num_codebooks", "nbits_per_codebook", "in_group_size"))
    return f"aqlm-{books * bits / group:g}bit" if books and bits and group else "aqlm"


def _other(method: str, config: Mapped) -> str:
    """A method of which only the name is known, with its bits."""
    bits = next((n for key in _BITS if (n := _number(config.get(key)))), None)
    group = _number(config.get("group_size"))
    if not method:
        return UNKNOWN if bits is None else _integers(bits, group=group)
    method = re.sub(r"[^a-z0-9.-]", "-", method)[:40]
    name = method if bits is None else f"{method}-{bits:g}bit"
    # A name such as int8 stands for what slim-eval makes.
    name = f"{UNKNOWN}-{name}" if re.fullmatch(r"(?:bf|fp|f|int|float)\d+|none", name) else name
    return f"{name} g{group:g}" if group and group > 0 else name


#: Presets of compressed-tensors whose name says less than they are.
_PRESETS = {"int8": "w8a8"}
_BITS = ("bits", "w_bit", "wbits", "num_bits", "nbits", "weight_bits", "w_bits")
_MODELOPT = {
    "fp8": "fp8-static", "fp8-per-channel-per-token": "fp8", "fp8-pb-wo": "w8a16-fp8-block", "fp8-pb-real": "fp8-block",
    "w4a16-nvfp4": "nvfp4a16", "w4a8-nvfp4-fp8": "nvfp4a8", "w4a8-mxfp4-fp8": "mxfp4a8", "mxfp8": "mxfp8",
    "w4a16-awq": "w4a16-awq", "int4-awq": "w4a16-awq", "w4a8-awq": "w4a8-awq", "nvfp4-awq": "nvfp4-awq",
    "w8a8-sq-per-channel": "w8a8-smoothquant", "w8a16": "w8a16", "w4a16": "w4a16", "mixed-precision": "mixed-modelopt",
}  # fmt: skip
#: torchao's configurations in lower case, without ``_`` and ``Config`` -> formats.
_TORCHAO_CONFIGS = {
    "int4weightonly": "4bit", "int8weightonly": "8bit", "int8dynamicactivationint8weight": "w8a8",
    "int8dynamicactivationint4weight": "w4a8", "float8weightonly": "w8a16-fp8", "uintxweightonly": "uintx",
    "float8dynamicactivationfloat8weight": "fp8", "float8dynamicactivationint4weight": "w4a8-fp8",
}  # fmt: skip
#: ``quant_method`` in lower case, with ``-`` between words -> how its configuration is read.
#: ``mxfp4`` is gpt-oss's: 4-bit weights of experts, activations of 16 bits.
_METHODS: dict[str, Callable[[Mapped], str]] = {
    "compressed-tensors": _compressed_tensors, "awq": _weight_only("awq"), "gptq": _weight_only("gptq"),
    "autoawq": _weight_only("awq"), "awq-marlin": _weight_only("awq"), "autogptq": _weight_only("gptq"),
    "auto-gptq": _weight_only("gptq"), "gptq-marlin": _weight_only("gptq"), "bnb": _bitsandbytes,
    "gptqmodel": _weight_only("gptq"), "marlin": _weight_only("gptq"), "auto-round": _autoround,
    "intel/auto-round": _autoround, "autoround": _autoround, "quark": _quark,
    "bitsandbytes": _bitsandbytes, "bitsandbytes-4bit": lambda config: "bnb-4bit",
    "bitsandbytes-8bit": lambda config: "bnb-8bit", "fp8": _fp8, "fbgemm-fp8": lambda config: "fp8-fbgemm",
    "modelopt": _modelopt, "modelopt-fp4": lambda config: "nvfp4", "mxfp4": lambda config: "mxfp4a16", "hqq": _hqq,
    "quanto": _quanto, "eetq": lambda config: "w8a16-eetq", "torchao": _torchao, "aqlm": _aqlm,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- names

_GGUF = re.compile(
    r"(?<![a-z0-9])(i?q[1-8]_(?:k(?:_(?:xxs|xs|s|m|l|xl|xxl))?|[01](?:_[48]_[48])?|xxs|xs|s|m|nl)|tq[12]_0)(?![a-z0-9])"
)
#: The same without its underscores, as some write it: ``Q4KM``, ``q6k``, ``Q4-K-M``.
_GGUF_SHORT = re.compile(r"(?<![a-z0-9])q([2-6])[_-]?k(?:[_-]?(s|m|l|xl))?(?![a-z0-9])")
#: MLC's: bits of the weights, type of the activations: ``q4f16_1``, ``q4bf16_0``; ``q0f16`` is not quantized.
_MLC = re.compile(r"(?<![a-z0-9])(q([0-8])b?f(?:16|32)(?:[_-](?:\d|ft|awq))?)(?![a-z0-9])")
_FORMATS = re.compile(r"w(\d+(?:\.\d+)?)a(\d+)")
_METHOD = re.compile(
    r"(?<![a-z0-9])(awq|gptq|auto-?round|smooth-?quant|rtn|hqq|exl[23]|aqlm|vptq|quip|eetq|torchao|quanto|squeezellm|spqr"
    r"|higgs|bitnet|bitblas|qoq|experts-int8|omniquant|spinquant|ipex|quark|tpu-int8)(?![a-z])"
)
_BITS_OF = re.compile(
    r"(?<![a-z0-9])(?:(?<![0-9]\.)b?(\d(?:\.\d+)?)-?bits?(?![a-z])|[uw]?int-?([1-8])(?![0-9])|i([48])(?![a-z0-9])"
    r"|w([1-8])(?![a-z0-9])|q([4568])(?![a-z0-9_]|-(?!mlx|onnx|ov|gguf))|(?<![0-9]\.)(\d(?:\.\d+)?)-?bpw)"
)
_GROUP = re.compile(
    r"(?<![a-z0-9])(?:g(?:s|roup-?)?-?(16|32|64|128|256|512|1024)|(16|32|64|128|256|512|1024)g)(?![a-z0-9])"
)
_ROLE = re.compile(r"(?<![a-z])(kv(?:-?cache)?-?(?:fp)?8|fp8-?kv|kv-fp8)(?![a-z0-9])")
_BNB = re.compile(r"(?<![a-z])(bnb|bitsandbytes|nf4|qlora|unsloth-bnb)(?![a-z])")
#: Words of a name that undo the others: weights that are 16 bit again.
_UNDONE = re.compile(r"(?<![a-z])(un|de|non-?)-?quanti[sz]ed")
#: Of the folders above a model, only this word says something of it.
_QUANTIZED = re.compile(r"(?<![a-z])quanti[sz]ed(?![a-z])")
_SIXTEEN_BIT = re.compile(r"(?<![a-z0-9])(b?fp?16|float16|16-?bits?)(?![a-z0-9])")
#: A model's folder in the hub's cache, and a snapshot of it: ``…/models--org--Tiny/snapshots/0123``.
_CACHED_PART = re.compile(r"models--(?:(.+?)--)?(.+)", re.DOTALL)
_SNAPSHOT = re.compile(r"(?:.*[/\\])?(models--[^/\\]+)(?:[/\\]+snapshots[/\\]+[^/\\]+)?[/\\]*", re.DOTALL)
_SAYS_SO = re.compile(
    r"(?<![a-z])(pre|post-?train(?:ing)?-?)?-?quant(i[sz]ed|i[sz]ation|ized)?(?![a-z])|(?<![a-z])ptq(?![a-z])"
)


def of_name(name: str) -> str | None:
    """The scheme that the name of a model, revision, file or method states; None if it states none.

    Of a path, the last part that states one counts; of a hub id the owner does not.
    """
    return next((found for part in reversed(_parts(name)) if (found := _of_part(part)) is not None), None)


def says_quantized(name: str) -> bool:
    """Whether a name says that a model is quantized, though not how: ``Tiny-quantized``, ``/data/quantized/Tiny``."""
    for above, part in enumerate(reversed(_parts(name))):
        text = _plain(part)
        if _UNDONE.search(text):
            return False
        if (_QUANTIZED if above else _SAYS_SO).search(text):
            return True
        if _SIXTEEN_BIT.search(text):
            return False
    return False


def model_name(name: str) -> str:
    """One name for a model that has several: a path without what changes nothing, the hub id of a cached snapshot."""
    if (snapshot := _SNAPSHOT.fullmatch(name)) and (cached := _CACHED_PART.fullmatch(snapshot[1])):
        return "/".join(part for part in cached.groups() if part)
    bare = name.rstrip("/\\")
    if name.startswith(("/", "./", "../")):
        return posixpath.normpath(name)
    return bare or name


def _parts(name: str) -> list[str]:
    """The parts of a path or of a file in a repository; of a hub id, also in the hub's cache, without its owner."""
    parts = [part for part in re.split(r"[/\\]", name) if part]
    if len(parts) <= 2 and not name.startswith(("/", ".", "~")):
        parts = parts[-1:]
    return [cached[2] if (cached := _CACHED_PART.fullmatch(part)) else part for part in parts]


def _of_part(part: str) -> str | None:
    low = part.lower()
    text = re.sub(r"(?<![0-9])1-58(?![0-9])", "1.58", _plain(low))
    if _UNDONE.search(text):
        return None
    cache = KV8 if _ROLE.search(text) else ""
    text = _ROLE.sub("fp8" if "fp8-kv" in text else "", text)
    found = _weights_of(low, text)
    return None if found is None else found + cache


def _weights_of(low: str, text: str) -> str | None:
    """The formats that a part of a name states; `text` has ``-`` between its words."""

    def has(*words: str) -> bool:
        return any(re.search(rf"(?<![a-z0-9]){word}(?![a-z0-9])", text) for word in words)

    if gguf := _GGUF.search(low):
        return gguf[1]
    if short := _GGUF_SHORT.search(low):
        return f"q{short[1]}_k" + (f"_{short[2]}" if short[2] else "")
    if (mlc := _MLC.search(low)) and mlc[2] != "0":
        return mlc[1].replace("-", "_")
    if block := re.search(r"(?<![a-z0-9])((?:nvfp4|mxfp[468])(?:a(?:8|16))?)(?![0-9])", text):
        stated = re.search(r"(?<![a-z0-9])w4a(8|16)(?![0-9])", text)
        return f"{block[1]}a{stated[1]}" if stated and "a" not in block[1] else block[1]
    if "gguf" in text or "ggml" in text:
        plain = next((name for name in ("bf16", "f16", "fp16", "f32") if has(name)), None)
        return f"gguf-{plain}" if plain else "gguf"
    method_found, bits_found, group_found = _METHOD.search(text), _BITS_OF.search(text), _GROUP.search(text)
    method = (
        ""
        if method_found is None
        else method_found[1].replace("auto-round", "autoround").replace("smooth-q", "smoothq")
    )
    bits = None if bits_found is None else float(next(value for value in bits_found.groups() if value))
    group = None if group_found is None else float(next(value for value in group_found.groups() if value))
    is_fp8 = bool(re.search(r"(?<![a-z])(fp8|float8|f8|e4m3|e5m2)(?![0-9])", text)) or has("w4afp8", "ptpc-fp8")
    if has("w4afp8"):
        return "w4a8-fp8"
    if has("8da4w"):
        return "w4a8"
    if (formats := _FORMATS.search(text)) and (formats[1], formats[2]) not in (("16", "16"), ("32", "32")):
        weight, act = float(formats[1]), float(formats[2])
        if is_fp8 and weight == act == 8:
            return _fp8_of(text)
        if is_fp8:
            return _integers(weight, act, "fp8", group)
        return _integers(weight, act, method or ("asym" if has("asym") else ""), group)
    if has("qlora") and has("int[48]"):
        return f"qlora-{bits:g}bit"  # trained so, and then written as integers: not bitsandbytes
    if _BNB.search(text):
        stated = re.search(r"bnb-?([48])(?![0-9])", text)
        known = 4.0 if has("nf4", "fp4", "qlora") else float(stated[1]) if stated else bits
        return "bnb" if known is None else f"bnb-{known:g}bit"
    if method in ("awq", "autoround"):
        return _integers(bits or 4, method=method, group=group)
    if method in ("gptq", "rtn") and bits is not None:
        return _integers(bits, method=method, group=group)
    if method.startswith("exl") and bits is not None:
        return f"{method}-{bits:g}bpw"
    if method == "smoothquant":
        return "w8a8-smoothquant"
    if method:
        wanted = method if bits is None or method.endswith("int8") else f"{method}-{bits:g}bit"
        return f"{wanted} g{group:g}" if group else wanted
    if is_fp8:
        return _fp8_of(text)
    if has("fp4", "fp6"):
        return "fp4" if has("fp4") else "fp6"
    if bits is not None and bits < 16:
        return f"{bits:g}bit" + (f" g{group:g}" if group else "")
    return None


def _fp8_of(text: str) -> str:
    ending = next((each for each in ("block", "static", "fbgemm") if each in text), "")
    return f"fp8-{ending}" if ending else "fp8"


# ----------------------------------------------------------------------------------------------------------- options

#: Values of ``quantization`` (vLLM's and SGLang's) whose name is not that of a format.
_QUANTIZATIONS = {
    "modelopt": "fp8-static", "modelopt-fp8": "fp8-static", "modelopt-fp4": "nvfp4", "petit-nvfp4": "nvfp4",
    "w8a8-int8": "w8a8", "blockwise-int8": "w8a8-block", "fbgemm-fp8": "fp8-fbgemm", "inc": "w4a16-autoround",
    "deepspeedfp": "fp6", "marlin": "gptq", "moe-wna16": "moe-wna16",
}  # fmt: skip
_ADAPTERS = ("peft", "lora_local_path", "lora_path", "lora", "lora_paths", "adapter", "adapter_path", "peft_type")
_NAMES = (
    "pretrained", "model", "path", "engine", "model_path", "revision", "subfolder", "model_file", "filename", "dtype",
)  # fmt: skip
#: Types of the keys and of the values in llama.cpp's KV cache.
_CACHE_TYPES = (("type_k", "type_v"), ("cache_type_k", "cache_type_v"))
#: Options of vLLM and SGLang that say how weights and cache are held; files contain them among a hundred others.
OPTIONS = (
    "quantization", "quantization_config", "hf_overrides", "json_model_override_args", "load_format", "gguf_file",
    "torchao_config", "kv_cache_dtype", "revision", "lora_paths",
)  # fmt: skip
#: SGLang's ``torchao_config``, without the group size -> formats.
_TORCHAO = {"int8dq": "w8a8", "fp8wo": "w8a16-fp8", "fp8dq-per-row": "fp8", "fp8dq-per-tensor": "fp8"}
_KEYS = re.compile(
    r"quant|awq|gptq|gguf|ggml|bnb|bitsandbytes|load_in_\d+bit|w_?bits?$|torchao|autoround|hqq|exl[23]|marlin"
)
#: Options whose name contains such a word and that say nothing of the model.
_IRRELEVANT = re.compile(
    r"compute_dtype|double_quant|quant_type|quant_storage|use_triton|fused|kv_cache|use_marlin|param_path|draft|specul"
)


def of_options(options: Mapped, names: Iterable[str | None] = (), backend: str | None = None) -> Marked:
    """What the options of a run (lm-eval's ``model_args``, vLLM's and SGLang's arguments) say.

    Args:
        options: Names as these tools have them, values as JSON or as text.
        names: Further names of the model, such as the one it was served under.
        backend: What ran it: ``load_in_8bit`` is not bitsandbytes with OpenVINO.
    """
    texts = [str(options[key]) for key in _NAMES if options.get(key)] + [name for name in names if name]
    marker, scheme = _of_options(options, texts) or ("", None)
    if backend == "openvino" and scheme is not None:
        scheme = scheme.removeprefix("bnb-")
    if not marker:
        # The one that says how many bits: a file Q4_K_M of a model *-GGUF.
        named = {text: found for text in texts if (found := of_name(text)) is not None}
        marker = next((text for text, found in named.items() if re.search(r"\d", found)), next(iter(named), ""))
        scheme = named.get(marker)
    if not marker:
        marker = next((text for text in texts if says_quantized(text)), "")
    endings = cache_ending(options) or (KV8 if any(_ROLE.search(_plain(text)) for text in texts) else "")
    endings += LORA if any(_is_on(options.get(key)) for key in _ADAPTERS) else ""
    return Marked(marker, scheme, endings)


def cache_ending(options: Mapped) -> str:
    """How the KV cache is held: ``+kv8``, ``+kv-q8_0``, ``+kv-f16-q4_0`` (keys, values); empty if in 16 bits."""
    if cache := re.search(r"(?:fp|int|uint|float)([248])(?![0-9])", str(options.get("kv_cache_dtype")).lower()):
        return f"+kv{cache[1]}"
    for keys in _CACHE_TYPES:
        types = [str(options.get(key) or "f16").strip().lower() for key in keys]
        if any(not re.fullmatch(r"b?f16|f32|auto|none", each) for each in types):
            return "+kv-" + "-".join(dict.fromkeys(types))
    return ""


def adapter_of(options: Mapped) -> str | None:
    """The adapter that a run's model had; None without one."""
    return next((str(options[key]) for key in _ADAPTERS if _is_on(options.get(key))), None)


def _of_options(options: Mapped, texts: list[str]) -> tuple[str, str | None] | None:
    """The first option that says how the weights are held, or that they are quantized."""
    words = " ".join(re.split(r"[/\\]", text)[-1] for text in texts)
    for key in ("quantization_config", "hf_overrides", "json_model_override_args", "compression_config"):
        config = _object(options.get(key))
        config = _object(config.get("quantization_config")) or ({} if "overrid" in key else config)
        if config:
            method = "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & config.keys() else None
            method = options.get("quantization_scheme") or method
            return key, of_config({"quant_method": method, **config} if method else config)
    if _is_on(scheme := options.get("quantization_scheme")):
        return f"quantization_scheme={scheme}", of_config({"quant_method": scheme})
    if _is_on(form := options.get("torchao_config")) and not _is_flag(form):
        kind, _, group = _plain(form).rpartition("-") if re.search(r"-\d+$", _plain(form)) else (_plain(form), "", "")
        known = f"torchao-{_TORCHAO[kind]}" if kind in _TORCHAO else of_name(f"torchao-{kind.removesuffix('wo')}")
        return f"torchao_config={form}", f"{known} g{group}" if group else known
    if _is_on(method := options.get("quantization")) and not _is_flag(method):
        name = _plain(method)
        found: str | None = _QUANTIZATIONS.get(name) or of_name(f"{name} {words}") or _other(name, {})
        if name == "bitsandbytes":
            found = of_name(f"bnb {words}") if re.search(r"8-?bit", _plain(words)) else "bnb-4bit"
        elif name in ("fp8", "ptpc-fp8"):
            found = _fp8_of(_plain(words)) if "fp8" in _plain(words) else "fp8"
        return f"quantization={method}", found
    for key, scheme in (("load_in_4bit", "bnb-4bit"), ("load_in_8bit", "bnb-8bit")):
        if _is_on(options.get(key)):
            return f"{key}={options[key]}", scheme
    if _is_on(file := options.get("gguf_file")):
        return f"gguf_file={file}", of_name(f"gguf {str(file).rsplit('/', 1)[-1]}")
    if str(form := options.get("load_format")).lower() in ("bitsandbytes", "gguf"):
        return f"load_format={form}", "bnb-4bit" if str(form).lower() == "bitsandbytes" else of_name(f"gguf {words}")
    bits = next((n for key in _BITS if (n := _number(options.get(key))) and n < 16), None)
    stated = f"{bits:g}bit " if bits else ""
    for key, value in options.items():
        if not (_KEYS.search(str(key).lower()) and _is_on(value)) or _IRRELEVANT.search(str(key).lower()):
            continue
        name = re.sub(r"^(use|enable|load|is)-|-(config|path|file)$", "", _plain(key)).replace("autogptq", "gptq")
        name = name.replace("gptqmodel", "gptq")
        own = "" if _is_flag(value) else _plain(str(value).rsplit("/", 1)[-1])
        return f"{key}={value}", of_name(f"{stated}{name} {own} {words}")
    return (f"bits={bits:g}", of_name(f"{stated}{words}")) if bits else None


# ------------------------------------------------------------------------------------------------------------ helpers


def _plain(value: Any) -> str:
    """A name in lower case with ``-`` between its words."""
    return re.sub(r"[\s_\-]+", "-", str(value).strip().lower())


def _is_on(value: Any) -> bool:
    is_off = str(value).strip().lower() in ("", "false", "none", "null", "0", "no", "off", "auto", "[]", "{}")
    return value is not None and not is_off


def _is_flag(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes", "on")


def _number(value: Any) -> float | None:
    """A positive number; None for anything else, such as a group size of -1 for "none"."""
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and 0 < number < 1e6 else None


def _object(value: Any) -> dict[str, Any]:
    """An object, also one that is written as a text in JSON or Python; empty for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value)
                break
            except (ValueError, SyntaxError, RecursionError):
                continue
    return value if isinstance(value, dict) else {}
