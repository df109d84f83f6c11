"""Log-probabilities of given tokens from an endpoint: two ways to get them, and the canary that both must pass.

Multiple-choice tasks need the log-probability of every token of an answer. `Echo` asks the completions API for those of
a prompt. llama.cpp's server has no echo: `ForcedDecoding` makes it generate the answer's tokens one by one, and its own
API returns the log-probability of each from the logits, before the bias that chose it.

Servers ignore what they are asked for, or return other numbers, and a score made of these looks like chance. So a known
text comes first: its log-probabilities must be right in number, in order and, with the weights at hand, in value.
"""

from __future__ import annotations

import math
import queue
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from threading import Condition, Event
from typing import TYPE_CHECKING, Any, Protocol

from slim_eval.engines import server
from slim_eval.errors import EngineError, SlimEvalError
from slim_eval.models import gguf, loading
from slim_eval.models.source import describe, has_safetensors
from slim_eval.utils import GIB

if TYPE_CHECKING:
    from slim_eval.engines.openai import OpenAiEngine

#: Its words follow each other by no rule, so that no model continues the beginning with the rest.
TEXT = (
    "The lighthouse keeper counted nine copper kettles, a violin without strings, seven maps of Lisbon and one letter, "
    "which nobody had opened since the winter of 1911 because its seal showed an unfamiliar crane."
)
_SHARES = (0.3, 0.55, 0.8)  # of the text, whose log-probabilities must not depend on what follows
#: Nats: batches of other sizes are summed in another order; in bfloat16 that alone moves a log-probability by 0.1.
_SAME = 0.5
#: Mean difference from the weights at hand, nats per token: for their own precision, and after quantization to 4 bit.
_CLOSE, _CLOSE_QUANTIZED = 0.3, 1.0
_CERTAIN = 0.05  # nats per token: no model is as certain of the text
_MOST_BYTES = 2 * GIB  # of a checkpoint that is loaded for this, at 16 bit if it is a GGUF file
_TASKS = "measure tasks with generated answers, or use a server with echo log-probabilities, such as vLLM"
_ANSWER_S = 600.0
_BIAS = 1e4  # logits: more than those of any model differ by
_CANDIDATES, _ALL_CANDIDATES = 200, 2**20  # tokens in an answer: likely to be enough, and more than a vocabulary has
_LEAST = math.log(2.0**-149)  # of float32, in which llama.cpp computes a probability

#: A context and what follows it, in token ids.
Pair = tuple[Sequence[int], Sequence[int]]


class PromptLogprobs(Protocol):
    """A way to get log-probabilities of given tokens."""

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """Log-probability of each token of a continuation given those before it, in nats.

        Raises:
            EngineError: The endpoint refuses, or its answer has no such numbers.
        """


def proven(engine: OpenAiEngine) -> Echo | ForcedDecoding:
    """The way that this endpoint answers, after the canary; a note says what could not be checked.

    Raises:
        EngineError: The endpoint does not return log-probabilities of given tokens as they are.
    """
    if not engine.takes_tokens:
        raise EngineError("the endpoint takes no token ids, as log-likelihoods need", _TASKS)
    echo = Echo(engine)
    try:
        _require_true(engine, echo)
    except EngineError:
        if (ended := engine.ended()) is not None:
            raise ended from None
        forced = ForcedDecoding.of(engine)
        if forced is None:
            raise
    else:
        return echo
    _require_true(engine, forced)
    engine.add_note(
        "log-likelihoods by forced decoding: llama.cpp generated the tokens of each answer, and returned their "
        "log-probabilities before the bias that forced them"
    )
    return forced


def _require_true(engine: OpenAiEngine, way: PromptLogprobs) -> None:
    """The canary."""
    tokens = [int(token) for token in engine.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    whole = way.score(tokens[:1], tokens[1:])
    for share in _SHARES:
        count = int(share * len(tokens))
        first = count // 2
        part = way.score(tokens[:first], tokens[first:count])
        apart = max(abs(one - other) for one, other in zip(whole[first - 1 : count - 1], part, strict=True))
        if apart > _SAME:
            raise EngineError(
                "the endpoint's log-probabilities of a prompt are not in the order of its tokens: those of its "
                f"beginning change by up to {apart:.2f} nats with what follows",
                _TASKS,
            )
    if fmean(whole) > -_CERTAIN:
        cause = f"the endpoint's log-probabilities of an unlikely text are {fmean(whole):.2f} nats per token"
        raise EngineError(f"{cause}: they are those after sampling, not the model's", _TASKS)
    checkpoint = engine.checkpoint
    reference = reference_logprobs(checkpoint, tokens, trust_remote_code=engine.trust_remote_code)
    if reference is None:
        engine.add_note("the values of the endpoint's log-probabilities were not checked: the weights are not at hand")
        return
    apart = fmean(abs(one - other) for one, other in zip(whole, reference, strict=True))
    if apart > (_CLOSE_QUANTIZED if engine.is_quantized and not gguf.is_gguf(checkpoint) else _CLOSE):
        raise EngineError(
            f"the endpoint's log-probabilities differ by {apart:.2f} nats per token from those of the weights at hand",
            "check that it serves this model, and returns log-probabilities before temperature and penalties",
        )


def reference_logprobs(checkpoint: Path, tokens: Sequence[int], *, trust_remote_code: bool) -> list[float] | None:
    """The same from the weights on this machine, in float32; None without them, or if they are large.

    Transformers reads a GGUF file into float32. A model that it cannot read is not checked: the endpoint's server can.
    """
    is_gguf = gguf.is_gguf(checkpoint) and checkpoint.is_file()
    if is_gguf:
        if 2 * gguf.read(checkpoint).parameters > _MOST_BYTES or len(gguf.parts_of(checkpoint)) > 1:
            return None
    elif not checkpoint.is_dir() or not has_safetensors(checkpoint) or describe(checkpoint).weight_bytes > _MOST_BYTES:
        return None
    import torch

    try:
        model = loading.load(checkpoint, dtype=torch.float32, trust_remote_code=trust_remote_code)
    except loading.FAILURES:
        return None
    except SlimEvalError:  # weights that are missing
        if is_gguf:  # Transformers may know the architecture without all that llama.cpp has added to it
            return None
        raise
    (values,) = loading.token_logprobs(model, [tokens])
    return values


class Echo:
    """The prompt's log-probabilities by ``echo`` of the completions API, one request per text."""

    def __init__(self, engine: OpenAiEngine) -> None:
        self._engine = engine

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """See `PromptLogprobs.score`; asked as lm-eval's own adapter does."""
        tokens = [*context, *continuation]
        try:
            answer = self._engine.ask({"prompt": tokens, "max_tokens": 1, "logprobs": 1, "echo": True})
        except EngineError as error:
            raise EngineError(
                f"the endpoint returns no log-probabilities of a prompt: {error.cause}", _TASKS
            ) from error
        held = answer["choices"][0].get("logprobs")
        values = held.get("token_logprobs") if isinstance(held, dict) else None
        if not isinstance(values, list):
            cause = "the endpoint returns no log-probabilities of a prompt: it ignores echo or logprobs"
            raise EngineError(cause, _TASKS)
        if len(values) != len(tokens) + 1:  # the generated token is the last
            cause = f"the endpoint returned {len(values)} log-probabilities for a prompt of {len(tokens)} tokens"
            raise EngineError(f"{cause} and one more: it ignores echo", _TASKS)
        return [_logprob(value) for value in values[1:-1]][len(context) - 1 :]


class ForcedDecoding:
    """llama.cpp's own API: one request per token, which a bias makes the only possible one.

    The log-probability that it returns is that of the logits, without the bias. Each request continues the prompt of
    the one before it in the same slot of the server, whose cache makes it read one token.

    A token that ends within a character (a byte of an accented letter) is an exception: the server says nothing of it
    until the character is complete. Its log-probability is read from the candidates of another token in its place.
    """

    def __init__(self, engine: OpenAiEngine, url: str, slots: int, context: int) -> None:
        """Use so many slots, which share a context window of so many tokens."""
        self._engine, self._url = engine, url
        self._slots = queue.SimpleQueue[int]()
        self._slot_count, self._room = slots, _Room(context)
        self._whole: int | None = None  # a token of whole characters
        for number in range(slots):
            self._slots.put(number)

    @classmethod
    def of(cls, engine: OpenAiEngine) -> ForcedDecoding | None:
        """That of an endpoint which answers as llama.cpp's server; None for another server.

        Raises:
            EngineError: Its model has another tokenizer.
        """
        root, headers = engine.endpoint.base_url.removesuffix("/v1"), engine.endpoint.headers
        url, slots, context = f"{root}/completion", 1, engine.max_model_len
        body = {"model": engine.endpoint.served_model, "prompt": "Hello", "n_predict": 1}
        status, content = server.ask(url, headers, body, timeout_s=_ANSWER_S)
        if status != 200 or not isinstance(content, dict) or "tokens_evaluated" not in content:
            return None
        tokens = engine.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        status, content = server.ask(f"{root}/detokenize", headers, {"tokens": list(tokens)})
        if status == 200 and isinstance(content, dict) and str(content.get("content")).strip() != TEXT:
            cause = "the tokenizer is not the one of the served model, which reads other words in its tokens"
            raise EngineError(cause, "give --tokenizer with the hub id or folder of this model")
        status, content = server.ask(f"{root}/props", headers)
        if status == 200 and isinstance(content, dict):
            slots = max(int(content.get("total_slots") or 1), 1)
            # With one cache for all slots this is its size, otherwise that of one slot: it is enough for either.
            context = int((content.get("default_generation_settings") or {}).get("n_ctx") or context)
        return cls(engine, url, slots, context)

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """See `PromptLogprobs.score`."""
        return [value for value, _ in self._forced(0, context, continuation)]

    def loglikelihoods(
        self, asked: Sequence[Pair], at_once: int, done: Callable[[int, tuple[float, bool]], None]
    ) -> list[tuple[float, bool]]:
        """The sum over the tokens of each continuation, and whether each of these is the most likely token.

        The continuations of one context follow each other in one slot, which reads it once; as many contexts are worked
        on `at_once`, the longest first. `done` is told the place and the answer of each as it comes.

        Raises:
            EngineError: The server refuses or has exited.
        """
        groups = defaultdict[tuple[int, ...], list[int]](list)
        for place, (context, _) in enumerate(asked):
            groups[tuple(context)].append(place)

        def longest(group: Sequence[int]) -> int:
            return max(len(asked[place][0]) + len(asked[place][1]) for place in group)

        found: dict[int, tuple[float, bool]] = {}

        is_over = Event()

        def work(group: Sequence[int]) -> list[tuple[int, tuple[float, bool]]]:
            with self._room.of(longest(group)):
                slot = self._slots.get()
                try:
                    return [
                        (place, _total(self._forced(slot, *asked[place]))) for place in group if not is_over.is_set()
                    ]
                finally:
                    self._slots.put(slot)

        with ThreadPoolExecutor(max(1, min(at_once, self._slot_count))) as pool:
            futures = [pool.submit(work, group) for group in sorted(groups.values(), key=longest, reverse=True)]
            try:
                for future in as_completed(futures):
                    for place, answer in future.result():
                        found[place] = answer
                        done(place, answer)
            except BaseException:
                is_over.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [found[place] for place in range(len(asked))]

    def _forced(self, slot: int, context: Sequence[int], continuation: Sequence[int]) -> list[tuple[float, bool]]:
        """The log-probability of each token of a continuation, and whether it is the most likely one."""
        prompt, found = list(context), []
        for token in continuation:
            content = self._generate(slot, prompt, token, 1)
            is_silent = isinstance(content, dict) and not content.get("completion_probabilities")
            if is_silent and self._whole is not None:
                content = self._generate(slot, prompt, self._whole, _CANDIDATES)
                if token not in _candidates(content):
                    content = self._generate(slot, prompt, self._whole, _ALL_CANDIDATES)
                found.append(self._answer(content, self._whole, token))
            else:
                found.append(self._answer(content, token, token))
                self._whole = token if self._whole is None else self._whole
            prompt.append(token)
        return found

    def _generate(self, slot: int, prompt: Sequence[int], token: int, candidates: int) -> Any:
        """The answer to a prompt after which only one token is possible, with so many of the likeliest ones."""
        body = {
            "model": self._engine.endpoint.served_model,
            "prompt": list(prompt),
            "n_predict": 1,
            "logit_bias": [[token, _BIAS]],
            "samplers": ["top_k"],
            "top_k": 1,
            "n_probs": candidates,
            "post_sampling_probs": False,
            "cache_prompt": True,
            "id_slot": slot,
        }
        try:
            status, content = server.ask(self._url, self._engine.endpoint.headers, body, timeout_s=_ANSWER_S)
        except EngineError as error:
            raise self._engine.ended() or error from error
        if status != 200:
            raise server.refusal(self._url, status, content)
        return content

    def _answer(self, content: Any, forced: int, token: int) -> tuple[float, bool]:
        """What an answer says of a token: the one that was forced, or one of the candidates in its place."""
        try:
            (said,) = content["completion_probabilities"]
            chosen, top = said["id"], said["top_logprobs"][0]
            value = said["logprob"] if token == forced else _candidates(content)[token]
            most_likely, highest = top["id"], _logprob(top["logprob"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            cause = "llama.cpp's server returns no log-probability of the token that it generates"
            raise EngineError(cause, "use llama.cpp of 2025 or later") from error
        if chosen != forced:
            cause = f"the endpoint generated token {chosen} where {forced} was forced: it ignores logit_bias"
            raise EngineError(cause, _TASKS)
        if isinstance(value, float) and value < _LEAST:
            self._engine.add_note(f"log-probabilities below {_LEAST:.1f} nats, llama.cpp's smallest, count as that")
            value = _LEAST
        value = _logprob(value)
        if value > highest + 1e-3:
            cause = "the endpoint's log-probability of a token is above that of the most likely token"
            raise EngineError(cause, _TASKS)
        return value, most_likely == token


def _candidates(content: Any) -> dict[int, Any]:
    """Log-probabilities of the likeliest tokens in place of the one that was generated; empty if there are none."""
    try:
        (said,) = content["completion_probabilities"]
        return {each["id"]: each["logprob"] for each in said["top_logprobs"]}
    except (KeyError, TypeError, ValueError):
        return {}


def _total(tokens: Sequence[tuple[float, bool]]) -> tuple[float, bool]:
    return math.fsum(value for value, _ in tokens), all(is_top for _, is_top in tokens)


def _logprob(value: Any) -> float:
    """A log-probability; an EngineError for anything else."""
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value > 1e-3:
        raise EngineError("the endpoint's log-probabilities of a prompt are not log-probabilities", _TASKS)
    return float(value)


class _Room:
    """Tokens of a context window that requests share."""

    def __init__(self, tokens: int) -> None:
        self._all = self._free = tokens
        self._changed = Condition()

    @contextmanager
    def of(self, tokens: int) -> Iterator[None]:
        """Wait until there is room for so many; all of it if it is less."""
        count = min(tokens, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()
