"""The prompts of lm-eval's tasks as a model reads them: chat template, thinking, and the room in its context window.

lm-eval's adapters differ: the one for vLLM passes ``enable_thinking=None`` if it was not set, which some templates read
as off, the one for Transformers nothing; only the one for vLLM ignores a task's stop sequences inside a thought; the
one for an API knows no thoughts. Here all render one way and stop at one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slim_eval.benchmarks import lm_eval_tasks
from slim_eval.config import Thinking
from slim_eval.errors import UsageError

#: The answer in a generated text, given stop sequences and what ends a thought.
AnswerOf = Callable[[str, "list[str] | str | None", str], str]

#: What ends a thought, in the templates of models that think: the first that occurs in a template counts.
_ENDS = ("</think>", "</seed:think>", "[/THINK]", "</thinking>")


def require_switch(template: str, thinking: Thinking | None, where: str = "") -> str | None:
    """What ends a thought under a chat template; None unless the model is asked to think.

    Raises:
        UsageError: The template has no argument ``enable_thinking``, or does not show where a thought ends.
    """
    if thinking is not None and "enable_thinking" not in template:
        cause = f"{where}--thinking {thinking.value}: the model's chat template has no argument enable_thinking"
        raise UsageError(cause, "leave --thinking out: the model cannot be switched")
    if thinking is not Thinking.ON:
        return None
    end = next((end for end in _ENDS if end in template), None)
    if end is None:
        cause = f"{where}--thinking on: the model's chat template does not show where a thought ends"
        raise UsageError(cause, "use --thinking off, or leave it out")
    return end


def switch(model: Any, template: str, thinking: Thinking | None, answer_of: AnswerOf) -> Thoughts | None:
    """Make lm-eval's adapter `model` render chat prompts with thinking on, off, or as the template does by default.

    Args:
        model: The adapter.
        template: Its chat template.
        thinking: What the user asked for.
        answer_of: lm-eval's ``postprocess_generated_text``.

    Returns:
        What counts the thoughts in its answers; None under a template that shows none, and with thinking off.

    Raises:
        UsageError: See `require_switch`.
    """
    end = require_switch(template, thinking)
    model.apply_chat_template = lambda history, add_generation_prompt=True: render(
        model.tokenizer, history, thinking, add_generation_prompt=add_generation_prompt
    )
    shown = end or next((end for end in _ENDS if end in template), None)
    if shown is None or thinking is Thinking.OFF:
        return None
    return Thoughts(model, shown, answer_of if end is not None else None)


class Thoughts:
    """The thoughts before the answers of lm-eval's adapter: removed as lm-eval does it, and counted.

    With `answer_of` they are removed: the model generates past a task's stop sequences, which occur inside thoughts,
    and the answer is cut at them afterwards. An answer without the end of its thought is scored as it is.
    """

    def __init__(self, model: Any, end: str, answer_of: AnswerOf | None) -> None:
        self._generate, self._end, self._answer_of = model.generate_until, end, answer_of
        self.ended = self.unfinished = 0  # answers with the end of a thought, and without
        model.generate_until = self._answers

    def _answers(self, asked: Sequence[Any], **options: Any) -> list[str]:
        if self._answer_of is not None:
            whole = [replace(each, arguments=(each.args[0], {**each.args[1], "until": []})) for each in asked]
            texts = self._generate(whole, **options)
        else:
            texts = self._generate(asked, **options)
        has_end = [self._end in text for text in texts]
        self.ended, self.unfinished = self.ended + sum(has_end), self.unfinished + has_end.count(False)
        if self._answer_of is None:
            return list(texts)
        stops = (each.args[1].get("until") for each in asked)
        return [self._answer_of(text, stop, self._end) for text, stop in zip(texts, stops, strict=True)]

    @property
    def cut(self) -> int | None:
        """Answers that ended within their thought; None if the template's default decides whether the model thinks."""
        return None if self._answer_of is None else self.unfinished

    def notes(self, task: str) -> list[str]:
        """What a reader must know about them."""
        if self._answer_of is None:
            told = f"{self.ended:,} answers contain a thought, which is scored with them: use --thinking on or off"
            return [f"{task}: {told}"] if self.ended else []
        told = f"{self.unfinished:,} of {self.ended + self.unfinished:,} answers end before their thought does"
        remedy = "they are scored as they are; copy the task with a larger max_gen_toks (--include-path)"
        return [f"{task}: {told}: {remedy}"] if self.unfinished else []


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


class ChatTemplate:
    """An adapter's `apply_chat_template` that also counts the prompts that lack one of their turns.

    A template may ignore a system turn; if it refuses one, lm-eval removes it and applies the template again.
    """

    def __init__(self, apply: Callable[..., str]) -> None:
        self._apply = apply
        self.without: Counter[str] = Counter()  # role -> prompts that lack a turn of it

    def __call__(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """The adapter's text of a conversation."""
        text = self._apply(chat_history, add_generation_prompt)
        left_out = {turn["role"] for turn in chat_history if str(turn["content"]).strip() not in text}
        self.without.update(left_out)
        return text

    @property
    def prompts(self) -> int:
        """Prompts without their system turn, or without an example if those are more."""
        return max(self.without.values(), default=0)


class PromptReader:
    """What `truncated_requests` needs of an lm-eval adapter, from a tokenizer alone."""

    max_gen_toks = lm_eval_tasks.DEFAULT_MAX_GEN_TOKS

    def __init__(self, tokenizer: Any, thinking: Thinking | None = None) -> None:
        self._tokenizer, self._thinking = tokenizer, thinking

    def tok_encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self._tokenizer.encode(text))

    def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """As both engines do it."""
        return render(self._tokenizer, chat_history, self._thinking, add_generation_prompt=add_generation_prompt)


def truncated_requests(model: Any, tasks: Iterable[Any], window: int, unread: int = 0) -> int | None:
    """Requests that lm-eval's adapter `model` cuts from the left: prompt and answer exceed the window, in tokens.

    None if the adapter has no tokenizer. What is generated needs `max_gen_toks` of the window. `unread` is what the
    engine declares as `Capabilities.lm_eval_unread`.
    """
    if not hasattr(model, "tok_encode"):
        return None
    cut = 0
    for instance in (instance for task in tasks for instance in task.instances):
        if instance.request_type == "generate_until":
            text, options = instance.args
            most = window - lm_eval_tasks.max_gen_toks(options, getattr(model, "max_gen_toks", None))
        elif instance.request_type == "loglikelihood":
            text, most = "".join(instance.args), window + unread
        else:  # a rolling log-likelihood is read window by window
            continue
        # No tokenizer makes more tokens than bytes, so that most prompts need not be encoded again.
        cut += len(text.encode()) >= most and len(model.tok_encode(text)) > most
    return cut


def notes(task: str, cut: int | None, window: int, template: ChatTemplate | None, among: str = "") -> list[str]:
    """What a reader must know about the prompts of a task; `among` says which ones were read, if not all."""
    found = []
    if cut:
        asked = f"{cut:,} prompts{among} are cut from the left to fit the context window of {window} tokens"
        found.append(f"{task}: {asked}: raise --max-model-len, or lower --num-fewshot")
    for role, count in (template.without if template else {}).items():
        what = "system turn (the task's description)" if role == "system" else f"{role} turns"
        found.append(f"{task}: the chat template drops the {what} of {count:,} prompts{among}")
    return found
