"""Chat prompts for lm-eval's adapters, and thinking: the template's argument ``enable_thinking``.

lm-eval's adapters differ: the one for vLLM passes ``enable_thinking=None`` if it was not set, which some templates read
as off, the one for Transformers nothing; and only the one for vLLM ignores a task's stop sequences inside a thought.
Here both render one way and stop at one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slim_eval.config import Thinking
from slim_eval.errors import BenchmarkError

#: What ends a thought, in the templates of models that think: the first that occurs in a template counts.
_ENDS = ("</think>", "</seed:think>", "[/THINK]", "</thinking>")


def switch(model: Any, template: str, thinking: Thinking | None) -> None:
    """Make lm-eval's adapter `model` render chat prompts with thinking on, off, or as the template does by default.

    Raises:
        BenchmarkError: The template has no such argument, or does not show where a thought ends.
    """
    if thinking is not None and "enable_thinking" not in template:
        cause = f"--thinking {thinking.value}: the model's chat template has no argument enable_thinking"
        raise BenchmarkError(cause, "leave --thinking out: the model cannot be switched")
    if thinking is Thinking.ON:
        model.think_end_token = next((end for end in _ENDS if end in template), None)
        if model.think_end_token is None:
            cause = "--thinking on: the model's chat template does not show where a thought ends"
            raise BenchmarkError(cause, "use --thinking off, or leave it out")
        if type(model).__name__ == "HFLM":
            _stop_after_the_thought(model)
    model.apply_chat_template = lambda history, add_generation_prompt=True: render(
        model.tokenizer, history, thinking, add_generation_prompt=add_generation_prompt
    )


def render(
    tokenizer: Any, history: Sequence[Mapping[str, str]], thinking: Thinking | None, *, add_generation_prompt: bool
) -> str:
    """A conversation as the model reads it; without system turns if the template refuses them, as lm-eval does it."""
    import jinja2

    def rendered(turns: Sequence[Mapping[str, str]]) -> str:
        options: dict[str, Any] = {"tokenize": False, "continue_final_message": not add_generation_prompt}
        if thinking is not None:
            options["enable_thinking"] = thinking is Thinking.ON
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=add_generation_prompt, **options))

    try:
        return rendered(list(history))
    except jinja2.exceptions.TemplateError:
        return rendered([turn for turn in history if turn["role"] != "system"])


def _stop_after_the_thought(model: Any) -> None:
    """Let Transformers generate past a task's stop sequences, which occur inside thoughts; lm-eval cuts afterwards.

    Its adapter for vLLM does so by itself.
    """
    generate = model._model_generate  # noqa: SLF001 - lm-eval has no option for this
    end = model.tok_decode(model.eot_token_id, skip_special_tokens=False)

    def whole(context: Any, max_length: int, stop: Sequence[str], **options: Any) -> Any:
        return generate(context, max_length, [end], **options)

    model._model_generate = whole  # noqa: SLF001
