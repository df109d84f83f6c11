"""``--engine openai`` against a server that misbehaves in each way, and the canary for log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import EngineConfig
from slim_eval.demo import MODEL_DIR
from slim_eval.engines import LoadRequest
from slim_eval.engines.openai import OPENAI, OpenAiEngine, server_command
from slim_eval.errors import EngineError, UsageError
from tests.standins.endpoint import KEY, StandIn, logprob, running

NOWHERE = Path("/dev/null")


@contextmanager
def engine_of(stand_in: StandIn, *, tokenizer: bool = True, precision: str = "as-is") -> Iterator[OpenAiEngine]:
    with running(stand_in) as url:
        config = EngineConfig(
            engine="openai", base_url=url, max_model_len=512, tokenizer=str(MODEL_DIR) if tokenizer else None
        )
        engine = OPENAI.load(LoadRequest(NOWHERE, config, 512, precision=precision, model="./absent/model"))
        try:
            yield engine
        finally:
            engine.close()


def test_a_batch_is_streamed_at_once_with_the_servers_count_of_tokens() -> None:
    stand_in = StandIn(tokens_per_second=50)
    with engine_of(stand_in) as engine:
        assert engine.device == "cpu"
        assert engine.dtype is None
        assert engine.kernels is None
        assert engine.memory().weights_gb is None
        stand_in.requests.clear()
        tokens = tuple(engine.ordinary_tokens()[:7])
        done = engine.generate([tokens, "Hello"], max_new_tokens=5)
        assert [(each.prompt_tokens, each.output_tokens) for each in done] == [(7, 5), (5, 5)]
        assert done[0].text == " the quick brown fox jumps"
        for each in done:
            assert each.ttft_s is not None
            assert each.e2e_s is not None
            assert each.decode_s is not None
            assert each.ttft_s + each.decode_s == pytest.approx(each.e2e_s)
            assert 0.06 < each.decode_s < 2  # four gaps of 20 ms
        first, second = stand_in.requests
        assert sorted([first["prompt"], second["prompt"]], key=str) == ["Hello", list(tokens)]
        assert first["ignore_eos"]
        assert first["temperature"] == 0
        assert first["cache_salt"] != second["cache_salt"]  # neither may use what the other has computed
        assert engine.count_tokens("Hello there") == 11
        assert engine.notes == ()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("cut", r"a request to the endpoint failed: (truncated|connection lost)"),
        ("error-in-stream", r"a request to the endpoint failed: server error: .*CUDA out of memory"),
        ("no-usage", r"does not count tokens \(usage\) at the end of a stream"),
        ("gated", "HTTP status 401"),
    ],
)
def test_what_cannot_be_measured_is_refused_when_it_is_loaded(fault: str, cause: str) -> None:
    with pytest.raises(EngineError, match=cause) as caught, engine_of(StandIn(fault=fault)):
        pytest.fail("it was loaded")
    assert caught.value.remedy
    assert "\n" not in caught.value.cause


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_EVAL_API_KEY", KEY)
    with engine_of(StandIn(fault="gated")) as engine:
        assert engine.generate(["Hello"], max_new_tokens=2)[0].output_tokens == 2


def test_what_a_server_does_not_know_is_left_out_and_said() -> None:
    with engine_of(StandIn(fault="text-only")) as engine:
        assert engine.notes == ("the endpoint takes no token ids: prompts are sent as text",)
        assert engine.generate(["Hello"], max_new_tokens=3)[0].output_tokens == 3
        with pytest.raises(EngineError, match="takes no token ids"):
            engine.ordinary_tokens()
    stand_in = StandIn(fault="strict")
    with engine_of(stand_in) as engine:
        assert "ignore_eos" in engine.notes[0]
        stand_in.requests.clear()
        engine.generate(["Hello"], max_new_tokens=3)
        assert not {"ignore_eos", "cache_salt", "cache_prompt"} & stand_in.requests[0].keys()
        assert set(engine.no_penalties) <= {"presence_penalty", "frequency_penalty"}  # OpenAI has these


def test_answers_of_tasks_and_benchmarks_have_no_penalties() -> None:
    """A server may take those of the model's own generation config, as vLLM's does, where a request sets none."""
    stand_in = StandIn()
    expected = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    with engine_of(stand_in) as engine:
        stand_in.requests.clear()
        engine.generate(["Hello"], max_new_tokens=2)
        model = engine.lm_eval_model(1)
        payload = model._create_payload(["Hello"], generate=True, gen_kwargs={"until": ["."], "max_gen_toks": 4})
        scored = model._create_payload(["Hello"], generate=False)
    for sent in (stand_in.requests[0], payload):
        assert {key: sent[key] for key in expected} == expected
    assert not expected.keys() & scored.keys()


def test_without_a_tokenizer_text_is_measured_and_accuracy_refused() -> None:
    with engine_of(StandIn(), tokenizer=False) as engine:
        assert engine.generate(["Hello"], max_new_tokens=2)[0].output_tokens == 2
        with pytest.raises(EngineError, match=r"no tokenizer of \./absent/model is known here"):
            engine.lm_eval_model(1)


def test_the_tokenizer_of_the_base_model_is_used_where_the_model_has_none() -> None:
    with running(StandIn()) as url:
        config = EngineConfig(engine="openai", base_url=url, max_model_len=512)
        request = LoadRequest(NOWHERE, config, 512, precision="q8_0", model="./absent.gguf", base_model=str(MODEL_DIR))
        engine = OPENAI.load(request)
        try:
            assert engine.tokenizer("Hello")["input_ids"]
        finally:
            engine.close()


def test_a_folder_of_the_hub_with_a_configuration_alone_has_no_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers makes one of two tokens from it, for some architectures."""
    from transformers import AutoTokenizer

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": 4096}))
    made, asked = AutoTokenizer.from_pretrained, []

    def from_pretrained(name: str, **options: Any) -> Any:
        asked.append(name)
        return made(str(MODEL_DIR) if name == "org/Tiny" else name)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    with running(StandIn()) as url:
        config = EngineConfig(engine="openai", base_url=url, max_model_len=512)
        engine = OPENAI.load(LoadRequest(tmp_path, config, 512, model="org/Tiny", revision="0123"))
        try:
            assert len(engine.tokenizer("Hello there")["input_ids"]) > 1
        finally:
            engine.close()
    assert asked[0] == "org/Tiny"


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="needs a server"):
        OPENAI.check(EngineConfig(engine="openai"))
    with pytest.raises(UsageError, match="--engine-arg has no meaning"):
        OPENAI.check(EngineConfig(engine="openai", server="x {model} {port}", engine_args={"threads": 2}))
    with pytest.raises(ValueError, match="cannot be combined"):
        EngineConfig(engine="openai", server="x {model} {port}", base_url="http://x")


def test_a_ready_made_server_gets_what_the_run_needs() -> None:
    config = EngineConfig(engine="openai", server="vllm", engine_args={"dtype": "float32", "enforce_eager": True})
    words = server_command(LoadRequest(NOWHERE, config, 512, parallel=4))
    assert words[words.index("--max-model-len") + 1] == "512"
    assert "--max-num-seqs" not in words  # its own: as many as fit
    assert words[words.index("--generation-config") + 1] == "vllm"
    assert words[-3:] == ["--dtype", "float32", "--enforce-eager"]
    llama = EngineConfig(engine="openai", server="llama.cpp")
    with pytest.raises(EngineError, match="not a GGUF file"):
        server_command(LoadRequest(NOWHERE, llama, 512))


def rule(tokens: list[int]) -> list[float]:
    """What `StandIn` returns for a prompt, after its first token."""
    return [logprob(token, place) for place, token in enumerate(tokens)][1:]


def asked(adapter: Any, context: str, continuation: str) -> tuple[float, bool]:
    from lm_eval.api.instance import Instance

    request = Instance("loglikelihood", {}, (context, continuation), 0)
    (answer,) = adapter.loglikelihood([request], disable_tqdm=True)
    return answer


def test_log_likelihoods_are_those_of_the_server() -> None:
    with engine_of(StandIn()) as engine:
        adapter = engine.lm_eval_model(2)
        whole = adapter.tok_encode("The cat sat on the mat")
        known = adapter.tok_encode("The cat sat on")
        value, _ = asked(adapter, "The cat sat on", " the mat")
        assert value == pytest.approx(sum(rule(whole)[len(known) - 1 :]))
        assert any("were not checked" in note for note in engine.notes)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("echo-ignored", r"1 log-probabilities for a prompt of \d+ tokens and one more: it ignores echo"),
        ("echo-refused", "returns no log-probabilities of a prompt: .*echo is not supported"),
        ("echo-absent", "ignores echo or logprobs"),
        ("echo-positive", "are not log-probabilities"),
        ("echo-reversed", "not in the order of its tokens"),
        ("echo-shifted", "not in the order of its tokens"),
        ("echo-scaled", r"differ by \d\.\d\d nats per token from those of the weights at hand"),
        ("text-only", "takes no token ids"),
    ],
)
def test_the_canary_catches_a_server_that_lies(fault: str, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from slim_eval.engines import prompt_logprobs

    monkeypatch.setattr(prompt_logprobs, "reference_logprobs", lambda folder, tokens, **_: rule(tokens))
    with engine_of(StandIn(fault=fault)) as engine:
        adapter = engine.lm_eval_model(1)
        with pytest.raises(EngineError, match=cause) as caught:
            asked(adapter, "The cat sat on", " the mat")
        assert caught.value.remedy


def test_the_canary_passes_a_server_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from slim_eval.engines import prompt_logprobs

    monkeypatch.setattr(prompt_logprobs, "reference_logprobs", lambda folder, tokens, **_: rule(tokens))
    with engine_of(StandIn()) as engine:
        assert asked(engine.lm_eval_model(1), "The cat sat on", " the mat")[0] < 0
        assert engine.notes == ()


def test_the_reference_is_the_model_itself() -> None:
    import torch

    from slim_eval.engines.prompt_logprobs import reference_logprobs
    from slim_eval.models import loading

    values = reference_logprobs(MODEL_DIR, [5, 9, 30], trust_remote_code=False)
    model = loading.load(MODEL_DIR, dtype=torch.float32)
    with torch.inference_mode():
        last = model(torch.tensor([[5, 9]])).logits[0, -1].log_softmax(-1)
    assert values is not None
    assert len(values) == 2
    assert values[1] == pytest.approx(float(last[30]), abs=1e-4)
    assert reference_logprobs(NOWHERE, [1, 2], trust_remote_code=False) is None


def test_llama_cpps_server_is_made_to_generate_each_answer() -> None:
    """The same sums as by echo; each context is read in one slot, by requests that its cache continues."""
    from lm_eval.api.instance import Instance

    texts = [
        (context, continuation)
        for context in ("The cat sat on", "A dog", "Nine copper kettles and", "Seven maps")
        for continuation in (" the mat", " a violin without strings", " it")
    ]
    stand_in, seen = StandIn(slots=3), list[Any]()
    with engine_of(stand_in) as engine:
        adapter = engine.lm_eval_model(2)
        adapter.set_cache_hook(type("Hook", (), {"add_partial": lambda self, *asked: seen.append(asked)})())
        assert engine.prompt_logprobs is engine.prompt_logprobs  # the canary is sent once
        stand_in.requests.clear()
        found = adapter.loglikelihood([Instance("loglikelihood", {}, text, 0) for text in texts], disable_tqdm=True)
        for text, (value, is_greedy) in zip(texts, found, strict=True):
            tokens, known = adapter.tok_encode("".join(text)), len(adapter.tok_encode(text[0]))
            assert value == pytest.approx(sum(rule(tokens)[known - 1 :]))
            assert is_greedy == all(token % 5 == 0 for token in tokens[known:])
        assert any("forced decoding" in note for note in engine.notes)
    assert sorted(request for _, request, _ in seen) == sorted(texts)
    slots = {}
    for body in stand_in.requests:
        assert (body["n_predict"], body["cache_prompt"], body["post_sampling_probs"]) == (1, True, False)
        context = max(
            (adapter.tok_encode(text) for text, _ in texts), key=lambda ids: ids == body["prompt"][: len(ids)]
        )
        slots.setdefault(tuple(context), set()).add(body["id_slot"])
    assert len(slots) == 4
    assert all(len(used) == 1 for used in slots.values())
    assert set.union(*slots.values()) <= {0, 1, 2}


def test_a_token_that_ends_within_a_character_is_read_from_the_candidates_of_another_one() -> None:
    """llama.cpp says nothing of it. Likely ones are among the first candidates; for the others all are asked for."""
    stand_in = StandIn(fault="native-partial", slots=2)
    with engine_of(stand_in) as engine:
        adapter = engine.lm_eval_model(1)
        context, continuation = "The cat sat on", " the mat and nine copper kettles without strings"
        tokens, known = adapter.tok_encode(context + continuation), len(adapter.tok_encode(context))
        value, _ = asked(adapter, context, continuation)
        assert value == pytest.approx(sum(rule(tokens)[known - 1 :]))
    partial = [token for token in tokens[known:] if token % 7 == 3]
    candidates = [body["n_probs"] for body in stand_in.requests if body.get("n_probs", 1) > 1]
    assert len(candidates) >= len(partial) > 0


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("bias-ignored", r"generated token \d+ where \d+ was forced: it ignores logit_bias"),
        ("bias-counted", r"unlikely text are 0\.00 nats per token: they are those after sampling"),
        ("native-scaled", r"differ by \d\.\d\d nats per token from those of the weights at hand"),
        ("native-adrift", "not in the order of its tokens"),
        ("native-above", "above that of the most likely token"),
        ("native-positive", "are not log-probabilities"),
        ("native-old", "returns no log-probability of the token that it generates"),
        ("native-refused", "HTTP status 400: logit_bias must be an array"),
        ("native-tokens", "the tokenizer is not the one of the served model"),
    ],
)
def test_the_canary_catches_a_server_of_llama_cpp_that_lies(
    fault: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slim_eval.engines import prompt_logprobs

    monkeypatch.setattr(prompt_logprobs, "reference_logprobs", lambda folder, tokens, **_: rule(tokens))
    with engine_of(StandIn(fault=fault, slots=2)) as engine:
        adapter = engine.lm_eval_model(1)
        with pytest.raises(EngineError, match=cause) as caught:
            asked(adapter, "The cat sat on", " the mat")
        assert caught.value.remedy
        assert not engine.notes


def test_a_prompt_that_exceeds_the_window_is_cut_as_lm_eval_cuts_it() -> None:
    context, continuation = "The cat sat on the mat. " * 100, " the mat"
    values = []
    for stand_in in (StandIn(), StandIn(slots=2)):
        with engine_of(stand_in) as engine:
            values.append(asked(engine.lm_eval_model(2), context, continuation)[0])
    assert values[0] == pytest.approx(values[1])


def test_what_float32_cannot_hold_is_the_least_that_it_can() -> None:
    from slim_eval.engines.prompt_logprobs import ForcedDecoding

    with engine_of(StandIn(slots=1)) as engine:
        way = engine.prompt_logprobs
        assert isinstance(way, ForcedDecoding)
        top = [{"id": 3, "logprob": -0.1}]
        answer = {"completion_probabilities": [{"id": 9, "logprob": -3.4028234663852886e38, "top_logprobs": top}]}
        assert way._answer(answer, 9, 9) == (pytest.approx(-103.28, abs=0.01), False)
        assert any("-103.3 nats" in note for note in engine.notes)
