"""What a quantized model says of itself, in every dialect, becomes the name of a scheme; never fp16."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim_eval import recognise
from slim_eval.recognise import (
    adapter_base,
    adapter_of,
    base_model,
    model_name,
    of_config,
    of_name,
    of_options,
    says_quantized,
)
from slim_eval.schemes import SCHEMES, Kernel, as_is_name, bits_of, is_quantized, scheme_of
from tests.generated import examples


def group(weights: dict[str, Any], activations: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    """A checkpoint of compressed-tensors with one group of layers."""
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, **others}


def quark(weight: dict[str, Any], inputs: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    """A checkpoint of AMD Quark."""
    return {"quant_method": "quark", "global_quant_config": {"weight": weight, "input_tensors": inputs}, **others}


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "group_size": None, "symmetric": True}
TOKEN8 = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
FP8_TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}

CONFIGS: list[tuple[dict[str, Any], str]] = [
    (group(INT8, TOKEN8), "w8a8"),
    (group(INT4), "w4a16 g128"),
    (group(INT4 | {"group_size": 64, "symmetric": False}), "w4a16-asym g64"),
    (group(INT8), "w8a16"),
    (group(INT4, TOKEN8), "w4a8 g128"),
    (group(INT4, FP8_TOKEN), "w4a8-fp8 g128"),
    (group(FP8, FP8_TOKEN), "fp8"),
    (group(FP8, FP8_TOKEN | {"dynamic": False, "strategy": "tensor"}), "fp8-static"),
    (group(FP8 | {"strategy": "block", "block_structure": [128, 128]}, FP8_TOKEN), "fp8-block"),
    (group(FP8), "w8a16-fp8"),
    (group(FP4, FP4 | {"dynamic": "local"}), "nvfp4"),
    (group(FP4), "nvfp4a16"),
    (group(FP4 | {"group_size": 32}), "mxfp4a16"),
    (group(FP8, FP8_TOKEN, kv_cache_scheme={"num_bits": 8, "type": "float"}), "fp8+kv8"),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "group_0": {"weights": INT4, "input_activations": None},
                "group_1": {"weights": FP8, "input_activations": FP8_TOKEN},
            },
        },
        "mixed-fp8-w4a16",
    ),
    ({"quant_method": "compressed-tensors", "config_groups": {"W8A8": ["Linear"]}}, "w8a8"),
    ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse"),
    ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, "w4a16-awq g128"),
    ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "w4a16-awq g64"),
    ({"quant_method": "awq"}, "w4a16-awq"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": True}, "w4a16-gptq g32"),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "w8a16-gptq"),
    (
        {"quant_method": "gptqmodel", "bits": 4, "group_size": 128, "meta": {"quantizer": ["gptqmodel:2.0"]}},
        "w4a16-gptq g128",
    ),
    ({"quant_method": "gptq"}, "gptq"),
    ({"quant_method": "intel/auto-round", "bits": 4, "group_size": 128}, "w4a16-autoround g128"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-4bit"),
    ({"quant_method": "bnb", "load_in_8bit": True}, "bnb-8bit"),
    ({"quant_method": "bitsandbytes", "_load_in_8bit": True, "load_in_4bit": False}, "bnb-8bit"),
    ({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}, "fp8-block"),
    ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8-static"),
    ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
    ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "fp8-fbgemm"),
    ({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, "mxfp4a16"),
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8-static"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8}}, "nvfp4+kv8"),
    ({"quant_method": "modelopt", "quantization": {"quant_algo": "W4A16_AWQ", "group_size": 128}}, "w4a16-awq g128"),
    ({"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4", "group_size": 16}, "nvfp4a16"),
    ({"quant_method": "modelopt", "quant_algo": "W4A8_NVFP4_FP8"}, "nvfp4a8"),
    ({"quant_method": "modelopt", "quant_algo": "W4A8_MXFP4_FP8"}, "mxfp4a8"),
    (
        {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}},
        "fp8-static+kv8",
    ),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"}, "nvfp4+kv-nvfp4"),
    (group(INT4, kv_cache_scheme={"num_bits": 4, "type": "float"}), "w4a16 g128+kv-fp4"),
    (group(INT4, kv_cache_scheme={"num_bits": 8, "type": "int"}), "w4a16 g128+kv-int8"),
    ({"quant_method": "compressed-tensors", "config_groups": {"INT8": ["Linear"]}}, "w8a8"),
    ({"quant_method": "compressed-tensors", "config_groups": {"MXFP4A16": ["Linear"]}}, "mxfp4a16"),
    ({"quant_method": "compressed-tensors", "config_groups": {"MXFP8A16": ["Linear"]}}, "mxfp8a16"),
    ({"quant_method": "quark"}, "quark"),
    (quark({"dtype": "fp8_e4m3"}, {"dtype": "fp8_e4m3", "is_dynamic": False}), "fp8-static-quark"),
    (quark({"dtype": "fp8_e4m3"}, {"dtype": "fp8_e4m3"}, export={"kv_cache_group": ["*k_proj"]}), "fp8-quark+kv8"),
    (quark({"dtype": "fp4", "group_size": 32}, {"dtype": "fp4", "group_size": 32}), "mxfp4-quark"),
    (quark({"dtype": "fp4", "group_size": 32}, {"dtype": "fp8_e4m3"}), "mxfp4a8-quark"),
    (quark({"dtype": "uint4", "group_size": 128}), "w4a16-quark g128"),
    (quark({"dtype": "int8"}, {"dtype": "int8"}), "w8a8-quark"),
    (
        {"quant_method": "auto-round", "bits": 4, "data_type": "mx_fp", "act_bits": 4, "group_size": 32},
        "mxfp4-autoround",
    ),
    ({"quant_method": "auto-round", "bits": 8, "act_bits": 8}, "w8a8-autoround"),
    ({"quant_method": "auto-round", "bits": 4, "act_bits": 16, "data_type": "int"}, "w4a16-autoround"),
    ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}, "hqq-4bit g64"),
    ({"quant_method": "quanto", "weights": "int8", "activations": None}, "w8a16-quanto"),
    (
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
        "torchao-4bit",
    ),
    (
        {"quant_method": "torchao", "quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 64}},
        "torchao-4bit g64",
    ),
    (
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}},
        },
        "torchao-4bit g64",
    ),
    (
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8DynamicActivationFloat8WeightConfig"}}},
        "torchao-fp8",
    ),
    ({"quant_method": "torchao", "quant_type": {"default": {"_type": "ModuleFqnToConfig"}}}, "torchao-mixed"),
    ({"quant_method": "eetq", "weights": "int8"}, "w8a16-eetq"),
    ({"quant_method": "aqlm", "in_group_size": 8, "nbits_per_codebook": 16, "num_codebooks": 1}, "aqlm-2bit"),
    ({"quant_method": "new-method", "bits": 3, "group_size": 64}, "new-method-3bit g64"),
    ({"quant_method": "int8"}, "quantized-int8"),
    ({"bits": 4, "group_size": 128}, "w4a16 g128"),
    ({"what": "ever"}, "quantized"),
]


@pytest.mark.parametrize(("config", "name"), CONFIGS)
def test_a_checkpoint_says_in_its_configuration_how_it_is_quantized(config: dict[str, Any], name: str) -> None:
    assert of_config(config) == name


@pytest.mark.parametrize(
    ("producer", "name"),
    [
        (
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}},
            "fp8-static+kv8",
        ),
        ({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16}}, "nvfp4"),
        ({"quantization": {"quant_algo": "W8A8_SQ_PER_CHANNEL"}}, "w8a8-smoothquant"),
        ({"quantization": {"quant_algo": "MIXED_PRECISION"}}, "mixed-modelopt"),
        ({"quantization": {"quant_algo": "SOMETHING"}}, "modelopt-something"),
        ({}, "modelopt"),
    ],
)
def test_modelopt_says_it_in_a_file_of_its_own(producer: dict[str, Any], name: str) -> None:
    assert of_config({}, producer) == name
    assert of_config({"quant_method": "modelopt"}, producer) == name
    assert of_config({"quant_method": "awq"}, producer) == "w4a16-awq"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_METHODS = st.sampled_from([*recognise._METHODS, "fp16", "int4", "int8", "fp32", "none", "new", "", None, 3])
_KEYS = st.sampled_from(
    [
        "bits",
        "group_size",
        "config_groups",
        "quant_algo",
        "kv_cache_scheme",
        "weights",
        "quant_type",
        "num_codebooks",
        "in_group_size",
        "nbits_per_codebook",
        "load_in_4bit",
        "quantization",
        "activation_scheme",
        "sparsity_config",
    ]
)


@settings(max_examples=examples(500))
@given(_METHODS, st.dictionaries(_KEYS, _JSON, max_size=5), st.none() | st.dictionaries(_KEYS, _JSON, max_size=2))
def test_whatever_it_says_it_is_not_one_of_slim_evals_own_schemes(
    method: Any, config: dict[str, Any], producer: dict[str, Any] | None
) -> None:
    name = of_config({"quant_method": method, **config}, producer)
    assert name
    assert name.split("+")[0] not in {"fp16", "int8", "int4", recognise.FP32}
    served = as_is_name(name)
    assert served not in SCHEMES
    assert (scheme_of(served).name, scheme_of(served).recipe, is_quantized(served)) == (served, None, False)


NAMES = {
    "TheBloke/Llama-2-7B-AWQ": "w4a16-awq",
    "Qwen/Qwen2.5-3B-Instruct-GPTQ-Int4": "w4a16-gptq",
    "Qwen/Qwen2.5-3B-Instruct-GPTQ-Int8": "w8a16-gptq",
    "TheBloke/Llama-2-7B-GPTQ": "gptq",
    "gptq-4bit-32g-actorder_True": "w4a16-gptq g32",
    "RedHatAI/Llama-3.2-3B-quantized.w4a16": "w4a16",
    "RedHatAI/Llama-3.2-3B-quantized.w8a8": "w8a8",
    "llama-3b-W8A8": "w8a8",
    "org/Tiny-W4A16-G128": "w4a16 g128",
    "org/Tiny-W8A8-FP8": "fp8",
    "RedHatAI/Llama-3-8B-FP8-dynamic": "fp8",
    "nvidia/Llama-3.1-8B-FP8": "fp8",
    "org/Tiny-FP8-block": "fp8-block",
    "org/Tiny-FP8-KV": "fp8+kv8",
    "nvidia/Llama-3.1-8B-NVFP4": "nvfp4",
    "org/Tiny-MXFP4": "mxfp4",
    "org/Tiny-W4A16-NVFP4": "nvfp4a16",
    "org/Tiny-MXFP4A16": "mxfp4a16",
    "unsloth/llama-3-8b-bnb-4bit": "bnb-4bit",
    "org/Tiny-nf4": "bnb-4bit",
    "mlx-community/Llama-3.2-3B-4bit": "4bit",
    "org/Tiny_INT8": "8bit",
    "Llama-3.2-3B-Instruct-Q4_K_M.gguf": "q4_k_m",
    "llama3.2:3b-instruct-q8_0": "q8_0",
    "org/Tiny-IQ4_XS": "iq4_xs",
    "bartowski/Tiny-GGUF": "gguf",
    "Tiny-BF16.gguf": "gguf-bf16",
    "Intel/Tiny-int4-AutoRound": "w4a16-autoround",
    "turboderp/Tiny-exl2-4.0bpw": "exl2-4bpw",
    "org/Tiny-hqq-4bit-g64": "hqq-4bit g64",
    "ISTA-DASLab/Tiny-AQLM-2Bit-1x16": "aqlm-2bit",
    "microsoft/bitnet-b1.58-2B-4T": "bitnet",
    "/data/w4a16/tiny-1b": "w4a16",
    "/models/tiny-1b-wint4/": "4bit",
    "org/Tiny-wint8": "8bit",
    "org/Tiny-uint4": "4bit",
    "org/Tiny-1B.q4": "4bit",
    "org/Tiny2.5.q8": "8bit",
    "org/Tiny-q4-mlx": "4bit",
    "Tiny-Q3KL": "q3_k_l",
    "tiny-q4km.gguf": "q4_k_m",
    "Tiny-Q6K": "q6_k",
    "org/Tiny-1.58bit": "1.58bit",
    "org/Tiny-b1.58bit": "1.58bit",
    "org/tiny-bnb8": "bnb-8bit",
    "mlc-ai/Tiny-1B-q4f16_1-MLC": "q4f16_1",
    "mlc-ai/Tiny-1B-q3f16_0-MLC": "q3f16_0",
    "meta-llama/Llama-3.2-1B-Instruct-SpinQuant_INT4_EO8": "spinquant-4bit",
    "meta-llama/Llama-3.2-1B-Instruct-QLORA_INT4_EO8": "qlora-4bit",
    "org/Tiny-qlora": "bnb-4bit",
    "/hub/models--bartowski--Tiny-GGUF/snapshots/0a1b/Tiny-Q4_K_M.gguf": "q4_k_m",
    "/cache/hub/models--TheBloke--Tiny-AWQ/snapshots/0a1b2c": "w4a16-awq",
}
PLAIN = [
    "meta-llama/Llama-3.2-3B-Instruct",
    "google/gemma-3-4b-it-qat-q4_0-unquantized",
    "Qwen/Qwen3-30B-A3B",
    "01-ai/Yi-6B-200K",
    "ibm-granite/granite-3.0-1b-a400m-instruct",
    "google/gemma-2-2b-it",
    "microsoft/Phi-3-mini-4k-instruct",
    "org/Tiny-bf16",
    "quantum-labs/Quantum-7B",
    "facebook/opt-125m",
    "mistralai/Mistral-7B-v0.1",
    "org/Tiny-16bit",
    "main",
    "",
    "awq-team/Tiny",
    "EleutherAI/gpt-j-6b",
    "Qwen/Qwen1.5-MoE-A2.7B",
    "mlc-ai/Tiny-1B-q0f16-MLC",
    "mlc-ai/Tiny-1B-q0f32-MLC",
    "microsoft/phi-4",
    "meta-llama/Llama-3.2-1B-Instruct",
    "HuggingFaceTB/SmolLM2-135M",
    "tiiuae/Falcon3-1B-Base",
    "Qwen/Qwen2.5-3B-Instruct",
    "org/q4-report",
    "org/Tiny-2024-q4-finance",
    "nvidia/Nemotron-H-8B-Base-8K",
    "state-spaces/mamba-2.8b-hf",
    "bigcode/starcoder2-3b",
    "stabilityai/stablelm-2-1_6b",
    "allenai/OLMo-2-0425-1B",
    "/home/me/quantization/Tiny-1B",
    "/data/quantized-and-plain/Tiny-1B-fp16",
    "/hub/models--awq-team--Tiny/snapshots/0a1b",
]


@pytest.mark.parametrize(("name", "scheme"), NAMES.items())
def test_a_name_says_how_a_model_is_quantized(name: str, scheme: str) -> None:
    assert of_name(name) == scheme
    assert of_name(name.replace("-", "_")) == scheme


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_say_nothing(name: str) -> None:
    assert of_name(name) is None
    assert not says_quantized(name)


OPTIONS: list[tuple[dict[str, Any], str | None]] = [
    ({"quantization": "fp8"}, "fp8"),
    ({"quantization": "awq"}, "w4a16-awq"),
    ({"quantization": "awq_marlin"}, "w4a16-awq"),
    ({"quantization": "gptq_marlin"}, "gptq"),
    ({"quantization": "gptq_marlin", "revision": "gptq-8bit-128g"}, "w8a16-gptq g128"),
    ({"quantization": "bitsandbytes"}, "bnb-4bit"),
    ({"quantization": "compressed-tensors"}, "compressed-tensors"),
    ({"quantization": "modelopt_fp4"}, "nvfp4"),
    ({"quantization": "experts_int8"}, "experts-int8"),
    ({"quantization": "a_new_one"}, "a-new-one"),
    ({"load_format": "bitsandbytes"}, "bnb-4bit"),
    ({"autogptq": "True"}, "gptq"),
    ({"autogptq": "model-4bit-128g.safetensors"}, "w4a16-gptq g128"),
    ({"gptqmodel": True}, "gptq"),
    ({"gguf_file": "Tiny-Q4_K_M.gguf"}, "q4_k_m"),
    ({"gguf_file": "tiny.gguf"}, "gguf"),
    ({"load_in_4bit": "True"}, "bnb-4bit"),
    ({"load_in_8bit": True}, "bnb-8bit"),
    ({"quantization_config": {"load_in_4bit": True}}, "bnb-4bit"),
    ({"quantization_config": "{'quant_method': 'awq', 'bits': 4, 'group_size': 128}"}, "w4a16-awq g128"),
    ({"hf_overrides": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
    ({"wbits": "4", "groupsize": 128}, "4bit"),
    ({"torchao_config": "int4wo-128"}, "torchao-4bit g128"),
    ({"torchao_config": "int8wo"}, "torchao-8bit"),
    ({"torchao_config": "int8dq"}, "torchao-w8a8"),
    ({"quantization": True}, None),
    ({"quantization_scheme": "bnb", "quantization_config": {"load_in_8bit": True}}, "bnb-8bit"),
    ({"quantization_scheme": "gptq", "quantization_config": {}}, "gptq"),
    ({"json_model_override_args": '{"quantization_config": {"quant_method": "fp8"}}'}, "fp8"),
    ({"pretrained": "org/Tiny-GGUF", "filename": "tiny-Q4_K_M.gguf"}, "q4_k_m"),
    ({"pretrained": "/data/quantized/x"}, None),
    ({"pretrained": "/data/quantized/x/"}, None),
    ({"dtype": "float8_e4m3fn"}, "fp8"),
    ({"revision": "gptq-4bit-32g-actorder_True"}, "w4a16-gptq g32"),
    ({"quant_path": "weights.pt"}, None),
]


@pytest.mark.parametrize(("options", "scheme"), OPTIONS)
def test_the_options_of_a_run_say_it(options: dict[str, Any], scheme: str | None) -> None:
    marked = of_options({"pretrained": "org/Tiny-1B", "dtype": "bfloat16", **options})
    assert marked.marker
    assert marked.name("fp16") == scheme


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quantization": None},
        {"quantization": "None", "load_in_4bit": "False", "autogptq": False},
        {"gguf_file": ""},
        {"kv_cache_dtype": "auto"},
        {"bnb_4bit_compute_dtype": "bfloat16"},
        {"trust_remote_code": True},
        {"torchao_config": "", "lora_paths": [], "json_model_override_args": "{}", "quantization_config": {}},
        {"speculative_draft_model_quantization": "fp8"},
        {"type_k": "f16", "type_v": "bf16"},
    ],
)
def test_other_options_do_not(options: dict[str, Any]) -> None:
    marked = of_options({"pretrained": "org/Tiny-1B", "dtype": "bfloat16", **options})
    assert (marked.marker, marked.name("fp16"), marked.name(None)) == ("", "fp16", None)


def test_an_adapter_and_the_cache_are_named_after_the_weights() -> None:
    options = {"pretrained": "org/Tiny", "peft": "org/lora", "load_in_4bit": True, "kv_cache_dtype": "fp8_e5m2"}
    assert of_options(options).name("fp16") == "bnb-4bit+kv8+lora"
    assert of_options({"pretrained": "org/Tiny", "lora_local_path": "/x"}).name("fp16") == "fp16+lora"
    assert of_options({"pretrained": "org/Tiny-FP8-KV", "kv_cache_dtype": "fp8"}).name(None) == "fp8+kv8"
    assert adapter_of(options) == "org/lora"
    assert adapter_of({"pretrained": "org/Tiny", "peft": None}) is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"type_k": "q8_0", "type_v": "q8_0"}, "fp16+kv-q8_0"),
        ({"type_k": "f16", "type_v": "q4_0"}, "fp16+kv-f16-q4_0"),
        ({"cache_type_v": "Q4_0"}, "fp16+kv-f16-q4_0"),
        ({"kv_cache_dtype": "fp8_e4m3"}, "fp16+kv8"),
        ({"peft_type": "lora"}, "fp16+lora"),
    ],
)
def test_what_is_not_of_the_weights_is_an_ending(options: dict[str, Any], name: str) -> None:
    marked = of_options({"model": "org/Tiny", **options})
    assert (marked.marker, marked.name("fp16"), marked.name(None)) == ("", name, None)


def test_eight_bits_of_openvino_are_not_bitsandbytes() -> None:
    assert of_options({"load_in_8bit": "true"}, backend="openvino").name("fp16") == "8bit"
    assert of_options({"load_in_4bit": True}, backend="openvino").name("fp16") == "4bit"
    assert of_options({"load_in_8bit": "true"}, backend="hf").name("fp16") == "bnb-8bit"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("/models/Tiny-1B/", "/models/Tiny-1B"),
        ("/models//./Tiny-1B", "/models/Tiny-1B"),
        ("./Tiny/", "Tiny"),
        ("C:\\models\\Tiny\\", "C:\\models\\Tiny"),
        ("org/Tiny-1B", "org/Tiny-1B"),
        ("org/Tiny-1B/", "org/Tiny-1B"),
        ("/root/.cache/huggingface/hub/models--org--Tiny-1B/snapshots/0123456789abcdef", "org/Tiny-1B"),
        ("/hub/models--org--Tiny-1B/snapshots/0123456789abcdef/", "org/Tiny-1B"),
        ("/hub/models--org--Tiny--1B", "org/Tiny--1B"),
        ("models--gpt2/snapshots/01", "gpt2"),
        ("/hub/models--org--T/snapshots/01/T-Q4_0.gguf", "/hub/models--org--T/snapshots/01/T-Q4_0.gguf"),
        ("llama3.2:3b", "llama3.2:3b"),
        ("/", "/"),
    ],
)
def test_one_model_has_one_name(name: str, plain: str) -> None:
    assert model_name(name) == model_name(plain) == plain


def test_base_models_are_read_from_cards_and_adapters() -> None:
    assert base_model({"base_model": "org/Tiny"}) == base_model({"base_model": ["org/Tiny"]}) == "org/Tiny"
    merged = {"base_model": ["org/A", "org/B"]}
    assert [base_model(card) for card in ({}, merged, {"base_model": []}, {"base_model": 3})] == [None] * 4
    assert adapter_base({"base_model_name_or_path": "org/Tiny", "peft_type": "LORA", "r": 16}) == "org/Tiny"
    assert adapter_base({"base_model_name_or_path": None}) is None


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("w4a16-awq g128", (4, 16)),
        ("w8a8", (8, 8)),
        ("fp8", (8, 8)),
        ("nvfp4a16", (4, 16)),
        ("mxfp4a8-quark", (4, 8)),
        ("mxfp8a16", (8, 16)),
        ("torchao-w8a8", (8, 8)),
        ("bnb-4bit", (4, 16)),
        ("q4_k_m", (4, 16)),
        ("iq2_xs", (2, 16)),
        ("exl2-4.5bpw", (4.5, 16)),
        ("gptq", (None, 16)),
        ("fp32", (32, 32)),
    ],
)
def test_bits_are_worked_out_from_the_name(name: str, bits: tuple[float | None, float]) -> None:
    assert bits_of(name) == bits


def test_it_runs_on_the_kernels_of_the_same_formats() -> None:
    assert scheme_of("w8a8").kernels == scheme_of("int8").kernels
    assert scheme_of("w4a16 g128").kernels == scheme_of("int4").kernels
    assert scheme_of("w4a16-awq g128").kernels == {"vllm": Kernel(dtypes=("float16", "bfloat16"))}
    assert scheme_of("bnb-nf4").kernels == {}
    mixed = scheme_of("mixed-w4a16-w8a8").kernels["vllm"]
    assert (mixed.min_capability, mixed.end_capability, mixed.cpu_flag) == ((7, 5), (10, 0), "avx512f")
    assert mixed.exact_with == scheme_of("int8").kernels["vllm"].exact_with
    known = [mixed.known_dtypes(frozenset(flags)) for flags in ({"avx2"}, {"avx512f"}, {"avx512f", "amx_tile"})]
    assert known == [(), ("float16", "bfloat16"), ("bfloat16",)]
    assert mixed.known_dtypes(None) == ("float16", "bfloat16")
    assert scheme_of("mixed-w4a16-fp8 g64").kernels["vllm"].on_cpu is False
    assert scheme_of("fp8+kv8").kv_cache_bits == 8
