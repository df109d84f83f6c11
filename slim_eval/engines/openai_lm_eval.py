"""lm-eval's own adapter for a completions API. Imported with lm-eval.

Log-likelihoods come by the way that `prompt_logprobs` has proven for the endpoint.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from lm_eval.models.openai_completions import LocalCompletionsAPI

from slim_eval.engines.prompt_logprobs import Echo
from slim_eval.errors import EngineError

if TYPE_CHECKING:
    from slim_eval.engines.openai import OpenAiEngine


class CompletionsAPI(LocalCompletionsAPI):  # type: ignore[misc]
    """lm-eval's adapter over an engine's endpoint; its failures become `EngineError`s."""

    def __init__(self, engine: OpenAiEngine, concurrent: int) -> None:
        self._engine, self._concurrent_requests = engine, concurrent
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
        way = self._engine.prompt_logprobs
        if isinstance(way, Echo):
            return self._translated(super()._loglikelihood_tokens, asked, **options)
        pairs = []
        for _, context, continuation in asked:
            tokens = [*context, *continuation][-self.max_length :]  # as lm-eval cuts them
            first = max(len(tokens) - len(continuation), 1)
            pairs.append((tokens[:first], tokens[first:]))

        def done(place: int, answer: tuple[float, bool]) -> None:
            if (key := asked[place][0]) is not None:  # a window of a rolling log-likelihood has none
                self.cache_hook.add_partial("loglikelihood", key, answer)

        return way.loglikelihoods(pairs, self._concurrent_requests, done)

    def _create_payload(self, *args: Any, **options: Any) -> Any:
        payload = super()._create_payload(*args, **options)
        return {**self._engine.no_penalties, **payload} if options.get("generate") else payload

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
