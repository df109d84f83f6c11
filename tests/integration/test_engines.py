"""Both engines for real, on small random checkpoints at three precisions: vLLM's CPU build if it is installed."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from slim_eval import engines
from slim_eval.benchmarks import performance
from slim_eval.config import Dtype, EngineConfig, PerformanceConfig, QuantizationConfig
from slim_eval.engines import ENGINES, LoadRequest, TokenScorer, agreement
from slim_eval.engines.memory import served_bytes
from slim_eval.errors import EngineError, SlimEvalError
from slim_eval.models.source import resolve
from slim_eval.results.records import PerformanceMetrics
from slim_eval.schemes import is_quantized, scheme
from slim_eval.utils import GIB
from tests.standins.tiny_models import ARCHITECTURES, make_checkpoint, make_tokenizer

PROMPT = "Explain one interesting fact about large language models. " * 4  # more than one block of vLLM's prefix cache
MAX_MODEL_LEN = 512
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 512}  # fmt: skip

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same random Llama at three precisions, quantized by slim-eval itself."""
    from slim_eval.quantization.cache import QuantizeRequest
    from slim_eval.quantization.llmcompressor import quantize

    folder = tmp_path_factory.mktemp("engines")
    texts = folder / "texts.jsonl"
    rows = [f"a text of {number} words, such as {number * 7} and {number * 13}" for number in range(16)]
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    plain = make_checkpoint(folder / "Tiny", **SIZES)
    config = QuantizationConfig(calibration_dataset=str(texts), num_calibration_samples=8, max_sequence_length=64)
    found = {"fp16": plain}
    for precision in ("int8", "int4"):
        request = QuantizeRequest(source=resolve(str(plain)), precision=precision, directory=folder / "quantized",
                                  config=config, seed=0, models=())  # fmt: skip
        found[precision] = quantize(request).path
    return found


@pytest.fixture(
    scope="module",
    params=[
        ("transformers", "fp16"),
        ("transformers", "int8"),
        ("transformers", "int4"),
        pytest.param(("vllm", "fp16"), marks=needs_vllm),
        pytest.param(("vllm", "int8"), marks=needs_vllm),
        pytest.param(("vllm", "int4"), marks=needs_vllm),
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def engine(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Iterator[engines.Engine]:
    """One engine at a time, loaded once for all tests; after closing, none of its processes is left."""
    name, precision = request.param
    try:
        decision = engines.choose(name, precision)
    except EngineError as error:
        pytest.skip(error.cause)
    config = EngineConfig(enforce_eager=name == "vllm", dtype="bfloat16")  # on every CPU
    # Whoever loads an engine may have other processes, which start some while it loads.
    script = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script]) as other:
        try:
            loaded = engines.ENGINES[decision.name].load(LoadRequest(checkpoints[precision], config, MAX_MODEL_LEN))
            yield loaded
            own, others = list(getattr(loaded, "_processes", ())), psutil.Process(other.pid).children()
            assert bool(own) is (decision.name == "vllm")
            assert len(others) == 1
            assert not {other.pid, others[0].pid} & {process.pid for process in own}
            loaded.close()
            assert [process for process in own if process.is_running()] == []
            assert psutil.wait_procs([psutil.Process(other.pid), *others], timeout=0.5)[0] == []
        finally:
            for process in [*psutil.Process(other.pid).children(), other]:
                process.kill()
    with pytest.raises(EngineError, match="closed"):
        loaded.generate([PROMPT], max_new_tokens=1)


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Path:
    return checkpoints[request.node.callspec.params["engine"][1]]


def test_it_says_what_it_is(engine: engines.Engine, request: pytest.FixtureRequest) -> None:
    name, precision = request.node.callspec.params["engine"]
    assert engine.name == name
    assert engine.version[0].isdigit()
    assert engine.dtype == "bfloat16"
    assert engine.max_model_len == MAX_MODEL_LEN
    assert engine.load_time_s > 0
    inexact = ENGINES[name].is_inexact(scheme(precision), ENGINES[name].platform())
    assert (engine.kernels == "inexact") is inexact
    emulated = any("emulates" in note for note in engine.notes)
    assert emulated is (name == "transformers" and is_quantized(precision))


@pytest.mark.parametrize(("requests", "tokens"), [(1, 1), (1, 2), (3, 20)])
def test_requests_get_exactly_their_tokens(engine: engines.Engine, requests: int, tokens: int) -> None:
    answers = engine.generate([PROMPT] * requests, max_new_tokens=tokens)
    assert [answer.output_tokens for answer in answers] == [tokens] * requests
    assert {answer.prompt_tokens for answer in answers} == {engine.count_tokens(PROMPT)}
    assert len({answer.text for answer in answers}) == 1  # greedy
    for answer in answers:
        assert answer.ttft_s is not None
        assert answer.e2e_s is not None
        assert 0 < answer.ttft_s <= answer.e2e_s
        if tokens == 1:
            assert answer.decode_s is None
            assert answer.e2e_s == answer.ttft_s
        else:
            assert answer.decode_s is not None
            assert answer.decode_s > 0
            assert math.isclose(answer.ttft_s + answer.decode_s, answer.e2e_s, rel_tol=1e-6)


def test_prompts_of_different_length_do_not_disturb_each_other(engine: engines.Engine) -> None:
    prompts = ["one", PROMPT, "a few more words"]
    together = engine.generate(prompts, max_new_tokens=6)
    alone = [engine.generate([prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert [answer.prompt_tokens for answer in together] == [engine.count_tokens(prompt) for prompt in prompts]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def _token_ids(engine: engines.Engine, text: str) -> tuple[int, ...]:
    tokenizer: Any = engine._llm.get_tokenizer() if engine.name == "vllm" else engine._tokenizer  # type: ignore[attr-defined]
    return tuple(tokenizer.encode(text))


def test_token_ids_ask_the_same_as_their_text(engine: engines.Engine) -> None:
    texts = ["one", PROMPT, "a few more words"]
    ids = [_token_ids(engine, text) for text in texts]
    assert [engine.count_tokens(prompt) for prompt in ids] == [engine.count_tokens(text) for text in texts]
    by_text = engine.generate(texts, max_new_tokens=6)
    by_ids = engine.generate(ids, max_new_tokens=6)
    assert [answer.text for answer in by_ids] == [answer.text for answer in by_text]
    assert [answer.prompt_tokens for answer in by_ids] == [len(prompt) for prompt in ids]


def test_token_ids_are_taken_as_they_are(engine: engines.Engine) -> None:
    """One token stays one token, even if the tokenizer puts special tokens before a text."""
    prompts = [(token,) for token in engine.ordinary_tokens()[:2]]
    answers = engine.generate(prompts, max_new_tokens=2)
    assert [answer.prompt_tokens for answer in answers] == [1, 1]


def test_ordinary_tokens_are_the_bytes_of_the_tokenizer(engine: engines.Engine) -> None:
    tokenizer = make_tokenizer()
    ordinary = engine.ordinary_tokens()
    assert len(ordinary) == 256
    assert list(ordinary) == sorted(ordinary)
    assert not set(ordinary) & {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    assert all(not token.startswith("<") or token == "<" for token in tokenizer.convert_ids_to_tokens(ordinary))


def test_synthetic_prompts_run(engine: engines.Engine) -> None:
    config = PerformanceConfig(num_warmup=2, num_runs=6, batch_size=2, max_new_tokens=4, input_len=32)
    measurement = performance.run(engine, config, seed=3)
    assert {row["prompt_tokens"] for row in measurement.samples} == {32}
    assert isinstance(measurement.metrics, PerformanceMetrics)
    assert (measurement.metrics.prompt_tokens, measurement.metrics.input_len) == (32, 32)


def test_a_prompt_beyond_the_context_window_is_refused(engine: engines.Engine) -> None:
    with pytest.raises(EngineError) as refused:
        engine.generate([PROMPT * 4], max_new_tokens=8)
    assert "--max-model-len" in refused.value.remedy
    assert engine.generate([PROMPT], max_new_tokens=2)[0].output_tokens == 2  # and it goes on


def test_requests_do_not_read_the_prefix_cache(engine: engines.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine.name != "vllm":
        pytest.skip("Transformers has no prefix cache")
    from vllm import SamplingParams

    llm: Any = engine._llm  # type: ignore[attr-defined]
    original, seen = llm.generate, []

    def spy(*args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        seen.extend(output.num_cached_tokens for output in outputs)
        return outputs

    monkeypatch.setattr(llm, "generate", spy)
    for _ in range(2):
        engine.generate([PROMPT] * 3, max_new_tokens=2)
    assert seen == [0] * 6
    reading = original([PROMPT], SamplingParams(max_tokens=1), use_tqdm=False)
    assert reading[0].num_cached_tokens > 0  # the cache is there, for accuracy


def test_the_receipt_of_kernels(engine: engines.Engine, checkpoint: Path, request: pytest.FixtureRequest) -> None:
    """What quantization stored beside the checkpoint is what the engine serves, but for rounding."""
    name, precision = request.node.callspec.params["engine"]
    found = agreement.receipt(engine, checkpoint, trust_remote_code=False)
    assert found.failure == ""
    record = found.record
    assert record.agreement_tokens == len(found.rows) > 400
    if precision == "fp16":
        assert record.agreement_mean is None  # no reference: none is made for 16 bit alone
    else:
        assert record.agreement_mean is not None
        assert record.agreement_max is not None
        # Of a model with nearly equal probabilities. Kernels that saturate (a CPU without VNNI) differ by 0.1.
        assert record.agreement_mean <= record.agreement_max < (0.1 if engine.kernels != "inexact" else 0.3)
    if name == "vllm" and precision != "fp16":
        assert record.quantized_kernel
        assert all(kernel.endswith("Kernel") for kernel in record.quantized_kernel)
    else:
        assert record.quantized_kernel is None


def test_log_probabilities_of_a_prompt_do_not_depend_on_what_follows_or_is_cached(
    engine: engines.Engine,
) -> None:
    assert isinstance(engine, TokenScorer)
    ids = [_token_ids(engine, PROMPT + " one of them"), _token_ids(engine, PROMPT)]
    for _ in range(2):  # the second time, vLLM has cached the prefix
        whole, first = engine.token_logprobs(ids)
        assert (len(whole), len(first)) == (len(ids[0]) - 1, len(ids[1]) - 1)
        shared = min(map(len, (whole, first))) - 1  # the last token may be a special one that ends a text
        assert list(whole[:shared]) == pytest.approx(list(first[:shared]), abs=0.1)
        assert all(value < 0 for value in whole)


def test_memory_report(engine: engines.Engine, checkpoint: Path, checkpoints: dict[str, Path]) -> None:
    report = engine.memory()
    assert report.peak_mb is not None
    assert report.used_mb is not None
    assert report.peak_mb >= report.used_mb > 100
    assert report.source is not None
    if engine.name == "transformers":
        # Whatever was on disk, Transformers computes with the 16-bit weights (and keeps scales).
        assert report.weights_gb == pytest.approx(served_bytes(checkpoints["fp16"]) / GIB, rel=0.02)
        assert (report.kv_cache_gb, report.kv_cache_tokens) == (None, None)
        return
    assert report.weights_gb == served_bytes(checkpoint) / GIB
    assert report.kv_cache_gb == pytest.approx(1.0, rel=0.01)  # VLLM_CPU_KVCACHE_SPACE
    layers, kv_heads, head_dim = 2, 2, 64
    token_bytes = layers * 2 * kv_heads * head_dim * 2
    assert report.kv_cache_tokens == pytest.approx(report.kv_cache_gb * GIB / token_bytes, rel=0.01)


def test_the_performance_benchmark_runs_on_it(engine: engines.Engine) -> None:
    config = PerformanceConfig(num_warmup=4, num_runs=8, batch_size=4, max_new_tokens=8)
    measurement = performance.run(engine, config)
    metrics = measurement.metrics.model_dump()
    # No GPU, no server, 2 iterations, and no host was observed.
    unknown = {"mbu", "memory_bandwidth_gb_s", "warmup_stable", "target_ci", "input_len"}
    unknown |= {"host", "valid", "max_contention", "num_errors"}
    if engine.name == "transformers":
        unknown |= {"kv_cache_gb", "kv_cache_tokens", "kv_cache_bytes_per_token", "max_concurrency"}
    assert {key for key, value in metrics.items() if value is None} == unknown
    assert metrics["stop_reason"] == "num_runs reached"
    assert set(metrics["intervals"]) == {"ttft_s", "tpot_s", "e2e_latency_s", "mean_latency_s", "tokens_per_second"}
    if engine.name == "vllm":
        context = engine.count_tokens(config.prompt) + 8
        held = metrics["kv_cache_tokens"]
        assert metrics["concurrency_by_context"] == {context: held // context, MAX_MODEL_LEN: held // MAX_MODEL_LEN}
        layers, kv_heads, head_dim = 2, 2, 64
        assert metrics["kv_cache_bytes_per_token"] == pytest.approx(layers * 2 * kv_heads * head_dim * 2, rel=0.01)
    assert len(measurement.samples) == 8
    for row in measurement.samples:
        # vLLM times the first token with another clock: e2e may exceed the wall time by one delivery.
        assert 0 < row["ttft_s"] <= row["e2e_s"] <= row["wall_s"] * 2


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output}
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "items.jsonl"
    rows = [{"q": f"Question {n}: ", "a": str(n % 3), "c": ["0", "1", "2"]} for n in range(12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice = TASK.format(name="tiny_choice", data=data, output="multiple_choice") + 'doc_to_choice: "{{c}}"\n'
    answer = TASK.format(name="tiny_answer", data=data, output="generate_until")
    answer += 'generation_kwargs: {until: ["\\n"], max_gen_toks: 4}\n'
    (folder / "tiny_choice.yaml").write_text(choice)
    (folder / "tiny_answer.yaml").write_text(answer)
    return folder


@pytest.fixture(scope="module")
def likelihoods() -> dict[tuple[str, str], list[float]]:
    """Each engine's likelihoods, to compare the second engine's with the first's."""
    return {}


def test_lm_eval_runs_on_the_loaded_weights(
    engine: engines.Engine,
    tasks: Path,
    likelihoods: dict[tuple[str, str], list[float]],
    request: pytest.FixtureRequest,
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    model = engine.lm_eval_model(4)
    expected = "VLLM" if engine.name == "vllm" else "HFLM"
    assert type(model).__name__ == expected
    found = lm_eval.simple_evaluate(
        model=model, tasks=["tiny_choice", "tiny_answer"], num_fewshot=0, bootstrap_iters=0, log_samples=True,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
    )  # fmt: skip
    choices = found["samples"]["tiny_choice"]
    assert len(choices) == len(found["samples"]["tiny_answer"]) == 12
    values = [response[0] for item in choices for response in item["filtered_resps"]]
    assert all(math.isfinite(value) and value < 0 for value in values)
    name, precision = request.node.callspec.params["engine"]
    likelihoods[name, precision] = values
    other = likelihoods.get(("transformers", precision))
    if name == "vllm" and other is not None:
        assert values == pytest.approx(other, rel=0.03)  # bfloat16 in two implementations of one quantized model
        assert engine.generate([PROMPT], max_new_tokens=3)[0].output_tokens == 3  # lm-eval left it as it was


def test_token_log_probabilities_are_those_of_lm_evals_adapter(engine: engines.Engine) -> None:
    """The receipt of kernels measures the arithmetic by which tasks are scored: lm-eval asks for the same tokens."""
    assert isinstance(engine, TokenScorer)
    ids = list(_token_ids(engine, PROMPT))
    (logprobs,) = engine.token_logprobs([ids])
    adapter = engine.lm_eval_model(1)
    for split in (1, len(ids) // 2, len(ids) - 1):  # tokens of context before those that are scored
        # One at a time: lm-eval takes requests of the same tokens for choices of one token each.
        ((likelihood, _),) = adapter._loglikelihood_tokens([(("", ""), ids[:split], ids[split:])], disable_tqdm=True)
        assert likelihood == pytest.approx(sum(logprobs[split - 1 :]), rel=0.01)  # bfloat16, in batches of other sizes


@needs_vllm
def test_vllms_int8_kernel_is_exact_with_vnni_alone(checkpoints: dict[str, Path]) -> None:
    """The fact in the table of schemes, from the kernel itself: its products against exact integer ones."""
    from slim_eval.engines.vllm import int8_kernel_error

    error = int8_kernel_error(checkpoints["int8"])
    assert error is not None
    if ENGINES["vllm"].is_inexact(scheme("int8"), ENGINES["vllm"].platform()):
        assert error > 1e-3
    else:
        assert error < 1e-5
    assert int8_kernel_error(checkpoints["fp16"]) is None


def test_int8_activations_are_quantized_by_transformers(checkpoints: dict[str, Path]) -> None:
    import torch

    request = LoadRequest(checkpoints["int8"], EngineConfig(), MAX_MODEL_LEN)
    loaded: Any = engines.ENGINES["transformers"].load(request)
    layer = loaded._model.model.layers[0].self_attn.q_proj
    values = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    values[:, 0] = 60.0  # an outlier makes the step of a token's int8 grid coarse
    inputs = values.to(layer.weight.dtype)
    step = inputs.abs().amax(dim=-1, keepdim=True).float() / 127.5
    rounded = (torch.clamp(torch.round(inputs.float() / step), -128, 127) * step).to(inputs.dtype)
    with torch.no_grad():
        answer = layer(inputs).float()
        as_rounded = torch.nn.functional.linear(rounded, layer.weight).float()
        as_given = torch.nn.functional.linear(inputs, layer.weight).float()
    loaded.close()
    assert (answer - as_rounded).abs().max() < 0.1 * (answer - as_given).abs().max()


def test_end_of_sequence_ends_a_request_where_it_counts(checkpoints: dict[str, Path]) -> None:
    import torch

    request = LoadRequest(checkpoints["fp16"], EngineConfig(), MAX_MODEL_LEN)
    loaded: Any = engines.ENGINES["transformers"].load(request)
    settings = loaded._model.generation_config
    text = loaded.generate([PROMPT], max_new_tokens=4)[0].text
    with torch.no_grad():
        logits = loaded._model(torch.tensor([loaded._tokenizer(PROMPT)["input_ids"]])).logits
    settings.eos_token_id = int(logits[0, -1].argmax())  # what it says first shall be the end
    settings.repetition_penalty = 9.0  # a model's own setting that has no place in greedy generation
    assert loaded.generate([PROMPT], max_new_tokens=4)[0].text == text
    ended = loaded.generate([PROMPT], max_new_tokens=4, ignore_eos=False)[0]
    assert (ended.output_tokens, ended.decode_s) == (1, None)
    assert loaded._model.generation_config is settings
    loaded.close()


def test_accuracy_does_not_depend_on_settings_of_the_model(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """A repetition penalty, a head under a configuration that ties it, and choices that tie in 16 bit."""
    import torch
    from lm_eval.api.instance import Instance

    request = LoadRequest(checkpoints["fp16"], EngineConfig(), MAX_MODEL_LEN)
    loaded: Any = engines.ENGINES["transformers"].load(request)
    head = loaded._model.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # no longer that of the embeddings
    with torch.no_grad():
        head.weight[7] += 1
    model = loaded.lm_eval_model(1)
    assert model.model.lm_head.weight[7, 0] != model.model.get_input_embeddings().weight[7, 0]
    ask = Instance("generate_until", {}, (PROMPT, {"until": [], "max_gen_toks": 12}), 0)
    (plain,) = model.generate_until([ask])
    loaded._model.generation_config.repetition_penalty = 9.0
    again = loaded.lm_eval_model(1)
    assert again.generate_until([ask]) == [plain]
    ((value, _),) = model.loglikelihood([Instance("loglikelihood", {}, (PROMPT, " one"), 0)])
    assert float(torch.tensor(value, dtype=torch.bfloat16)) != value
    loaded.close()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_architectures_load(architecture: str, tmp_path: Path) -> None:
    request = LoadRequest(make_checkpoint(tmp_path, architecture), EngineConfig(), 64)
    loaded = engines.ENGINES["transformers"].load(request)
    answers = loaded.generate(["one", "two three four"], max_new_tokens=5)
    loaded.close()
    assert [answer.output_tokens for answer in answers] == [5, 5]


def test_an_engine_argument_replaces_the_dtype_of_the_checkpoint(tmp_path: Path) -> None:
    config = EngineConfig(dtype="float32")
    request = LoadRequest(make_checkpoint(tmp_path, dtype="bfloat16"), config, 64)
    loaded = engines.ENGINES["transformers"].load(request)
    loaded.close()
    assert loaded.dtype == "float32"


def test_a_checkpoint_that_does_not_load_says_why(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "no-such-type"}))
    with pytest.raises(EngineError, match="no-such-type"):
        engines.ENGINES["transformers"].load(LoadRequest(checkpoint, EngineConfig(), 64))


@needs_vllm
@pytest.mark.parametrize("lost", ["lm_head.weight", "model.layers.1.mlp.down_proj.weight"])
def test_vllm_is_not_started_on_a_checkpoint_that_lacks_weights(lost: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint(tmp_path, tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    request = LoadRequest(folder, EngineConfig(enforce_eager=True), MAX_MODEL_LEN)
    with pytest.raises(SlimEvalError, match=f"lacks weights of the model, which would be random: {lost}"):
        engines.ENGINES["vllm"].load(request)


@needs_vllm
def test_no_room_for_the_kv_cache_names_cause_and_remedy(checkpoints: dict[str, Path]) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    config = EngineConfig(enforce_eager=True, engine_args={"num_gpu_blocks_override": 1})
    request = LoadRequest(checkpoints["fp16"], config, MAX_MODEL_LEN)
    with pytest.raises(EngineError, match="cache blocks") as refused:
        engines.ENGINES["vllm"].load(request)
    assert "VLLM_CPU_KVCACHE_SPACE" in refused.value.remedy
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    assert [process for process in left if "resource_tracker" not in " ".join(process.cmdline())] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_native_kernels_serve_what_the_emulation_serves(
    checkpoints: dict[str, Path], precision: str, dtype: Dtype
) -> None:
    answers, sizes, kernels = [], [], []
    for native in (True, False):
        config = EngineConfig(native_kernels=native, dtype=dtype)
        loaded: Any = ENGINES["transformers"].load(LoadRequest(checkpoints[precision], config, MAX_MODEL_LEN))
        assert any("emulates" in note for note in loaded.notes) is not native
        assert bool(loaded.quantized_kernel) is native
        answers.append(loaded.token_logprobs([_token_ids(loaded, PROMPT)])[0])
        sizes.append(loaded.memory().weights_gb)
        kernels.append(loaded.kernels)
        assert loaded.generate([PROMPT], max_new_tokens=3)[0].output_tokens == 3
        loaded.close()
    assert kernels == ["native", "emulated"]
    assert answers[0] == pytest.approx(answers[1], abs=0.1)
    assert sizes[0] < sizes[1]
