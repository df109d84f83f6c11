"""lm-eval's own adapter for a completions API, with a canary for log-probabilities. Imported with lm-eval.

Multiple-choice tasks need the log-probability of every token of a prompt: ``echo`` with ``logprobs``. Servers ignore
it, refuse it, or return other numbers in its place, and a score made of these looks like chance. So a known text comes
first: its log-probabilities must be right in number, in order and, with the weights at hand, in value.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lm_eval.models.openai_completions import LocalCompletionsAPI

from slim_eval.errors import EngineError
from slim_eval.models import gguf
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
_MOST_BYTES = 2 * GIB  # of a checkpoint that is loaded for this
_TASKS = "measure tasks with generated answers, or use a server with echo log-probabilities, such as vLLM"


class CompletionsAPI(LocalCompletionsAPI):  # type: ignore[misc]
    """lm-eval's adapter over an engine's endpoint; its failures become `EngineError`s."""

    def __init__(self, engine: OpenAiEngine, concurrent: int) -> None:
        self._engine = engine
        self._is_checked = False
        super().__init__(
            base_url=f"{engine.endpoint.base_url}/completions",
            pretrained=engine.endpoint.served_model,
            tokenizer_backend="None",  # it would load one by the name that the endpoint has for the model
            batch_size=1,
            num_concurrent=max(concurrent, 2),  # one alone would go another way, through proxies
            max_retries=1,  # what fails is said, not tried again until it looks right
            max_length=engine.max_model_len,  # it leaves room for the token that it must ask for
            header=engine.endpoint.headers,
            timeout=3600,
        )
        self.tokenizer, self.tokenizer_backend = engine.tokenizer, "huggingface"
        self.tokenized_requests = engine.takes_tokens

    @property
    def tokenizer_name(self) -> str:
        """Of its chat template."""
        return str(self.tokenizer.name_or_path)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that prompts are rendered with, here rather than by the endpoint."""
        return getattr(self.tokenizer, "chat_template", None) and str(self.tokenizer.get_chat_template())

    def tok_encode(
        self,
        string: Any,
        left_truncate_len: int | None = None,
        add_special_tokens: bool | None = None,
        **_: Any,
    ) -> Any:
        """Token ids as lm-eval's adapters in process make them: with the tokenizer's special tokens, never twice.

        Its own adapter leaves them out, and a model that was trained with a first token then scores otherwise.
        """
        if not isinstance(string, str):
            return [self.tok_encode(each, left_truncate_len, add_special_tokens) for each in string]
        if not string:
            return []
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not (bos and string.startswith(bos))
        encoded = list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])
        return encoded[-left_truncate_len:] if left_truncate_len else encoded

    def _loglikelihood_tokens(self, asked: Any, **options: Any) -> Any:
        if not self._is_checked:
            require_prompt_logprobs(self._engine)
            self._is_checked = True
        return self._translated(super()._loglikelihood_tokens, asked, **options)

    def generate_until(self, asked: Any, **options: Any) -> Any:
        """Answers of the model, up to a stop sequence."""
        return self._translated(super().generate_until, asked, **options)

    def _translated(self, call: Any, *args: Any, **options: Any) -> Any:
        import aiohttp

        try:
            return call(*args, **options)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            engine = self._engine
            if (ended := engine.ended()) is not None:
                raise ended from error
            cause = f"a request to the endpoint failed: {' '.join(str(error).split()) or type(error).__name__}"
            remedy = "see the server's log, and lower --accuracy-batch-size or --max-model-len"
            raise EngineError(cause, remedy) from error
        except (KeyError, TypeError, AssertionError, ValueError) as error:
            cause = f"the endpoint's answer is not one of the completions API ({type(error).__name__}: {error})"
            raise EngineError(cause, "see the server's log") from error


def adapter(engine: OpenAiEngine, batch_size: int) -> CompletionsAPI:
    """The adapter of an endpoint that answers `batch_size` requests at once."""
    return CompletionsAPI(engine, batch_size)


def require_prompt_logprobs(engine: OpenAiEngine) -> None:
    """The canary; a note says what could not be checked.

    Raises:
        EngineError: The endpoint does not return a prompt's log-probabilities as they are.
    """
    if not engine.takes_tokens:
        raise EngineError("the endpoint takes no token ids, as log-likelihoods need", _TASKS)
    tokens = [int(token) for token in engine.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    whole = prompt_logprobs(engine, tokens)
    for share in _SHARES:
        count = int(share * len(tokens))
        part = prompt_logprobs(engine, tokens[:count])
        apart = max(abs(one - other) for one, other in zip(whole[: count - 1], part, strict=True))
        if apart > _SAME:
            raise EngineError(
                "the endpoint's log-probabilities of a prompt are not in the order of its tokens: those of its "
                f"beginning change by up to {apart:.2f} nats with what follows",
                _TASKS,
            )
    reference = reference_logprobs(engine.checkpoint, tokens, trust_remote_code=engine.trust_remote_code)
    if reference is None:
        engine.add_note("the values of the endpoint's log-probabilities were not checked: the weights are not at hand")
        return
    apart = fmean(abs(one - other) for one, other in zip(whole, reference, strict=True))
    if apart > (_CLOSE_QUANTIZED if engine.is_quantized else _CLOSE):
        raise EngineError(
            f"the endpoint's log-probabilities differ by {apart:.2f} nats per token from those of the weights at hand",
            "check that it serves this model, and returns log-probabilities before temperature and penalties",
        )


def prompt_logprobs(engine: OpenAiEngine, tokens: Sequence[int]) -> list[float]:
    """Log-probabilities of the tokens of a prompt after the first, in nats, as lm-eval asks for them.

    Raises:
        EngineError: The endpoint refuses, or returns another number of them.
    """
    try:
        answer = engine.ask({"prompt": list(tokens), "max_tokens": 1, "logprobs": 1, "echo": True})
    except EngineError as error:
        raise EngineError(f"the endpoint returns no log-probabilities of a prompt: {error.cause}", _TASKS) from error
    held = answer["choices"][0].get("logprobs")
    values = held.get("token_logprobs") if isinstance(held, dict) else None
    if not isinstance(values, list):
        raise EngineError("the endpoint returns no log-probabilities of a prompt: it ignores echo or logprobs", _TASKS)
    if len(values) != len(tokens) + 1:  # the generated token is the last
        cause = f"the endpoint returned {len(values)} log-probabilities for a prompt of {len(tokens)} tokens"
        raise EngineError(f"{cause} and one more: it ignores echo", _TASKS)
    found = values[1:-1]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) and value <= 1e-3 for value in found):
        raise EngineError("the endpoint's log-probabilities of a prompt are not log-probabilities", _TASKS)
    return [float(value) for value in found]


def reference_logprobs(checkpoint: Path, tokens: Sequence[int], *, trust_remote_code: bool) -> list[float] | None:
    """The same from the weights of a checkpoint on this machine; None without them, or if they are large."""
    if gguf.is_gguf(checkpoint) or not checkpoint.is_dir() or not has_safetensors(checkpoint):
        return None
    if describe(checkpoint).weight_bytes > _MOST_BYTES:
        return None
    import torch

    from slim_eval.models import loading

    try:
        model = loading.load(checkpoint, dtype=torch.float32, trust_remote_code=trust_remote_code)
    except loading.FAILURES:  # a format that Transformers does not read: the endpoint's server does
        return None
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)])
        values = torch.log_softmax(model(ids).logits[0, :-1].float(), dim=-1)
        return [float(value) for value in values.gather(1, ids[0, 1:, None])[:, 0]]
