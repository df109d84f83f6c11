"""A `vllm.LLM` for lm-eval whose failures arrive as those of the engine do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slim_eval.errors import EngineError


class Guarded:
    """Passes everything on to a model; what its `generate` raises is translated.

    Args:
        model: A `vllm.LLM`.
        failures: Exceptions of it to translate.
        translate: Makes an `EngineError` of one.
    """

    def __init__(
        self, model: Any, failures: tuple[type[Exception], ...], translate: Callable[[BaseException], EngineError]
    ) -> None:
        self._model, self._failures, self._translate = model, failures, translate

    def generate(self, *args: Any, **options: Any) -> Any:
        """What the model generates.

        Raises:
            EngineError: It stopped; cause and remedy.
        """
        try:
            return self._model.generate(*args, **options)
        except self._failures as error:
            raise self._translate(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
