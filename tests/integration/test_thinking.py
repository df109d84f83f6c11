"""Both engines ask the same question: a chat prompt, rendered through lm-eval's adapter for each, is one text."""

from __future__ import annotations

import importlib.util
from typing import Any, cast

import pytest

from slim_eval.benchmarks.prompts import AnswerOf, Thoughts, switch
from slim_eval.config import Thinking
from slim_eval.engines.vllm import distribution_named_vllm
from slim_eval.errors import UsageError
from tests.standins.tiny_models import make_tokenizer

TURNS = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}{% if add_generation_prompt %}<a>"
SKIP = "<think></think>"
#: Two ways in which templates read the switch: in the first None is on, in the second it is off.
TEMPLATES = {
    "unless false": TURNS + "{% if enable_thinking is defined and enable_thinking is false %}" + SKIP
    + "{% endif %}{% endif %}",
    "unless falsy": "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}" + TURNS
    + "{% if not enable_thinking %}" + SKIP + "{% endif %}{% endif %}",
}  # fmt: skip
HISTORY = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1 + 1?"}]

ANSWER_OF = cast(AnswerOf, None)  # of tests that generate nothing

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def adapters(template: str) -> list[Any]:
    """lm-eval's adapters, with all that they need to render a prompt, and no model."""
    with distribution_named_vllm("0.0"):
        from lm_eval.models.huggingface import HFLM
        from lm_eval.models.vllm_causallms import VLLM
    made: list[Any] = [object.__new__(HFLM), object.__new__(VLLM)]
    for model in made:
        model.tokenizer = make_tokenizer()
        model.tokenizer.chat_template = template
        model.hf_chat_template, model.chat_template_args, model.enable_thinking = None, {}, None
    return made


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize(
    ("thinking", "skipped"), [(None, False), (Thinking.ON, False), (Thinking.OFF, True)], ids=["default", "on", "off"]
)
def test_both_adapters_render_one_prompt(template: str, thinking: Thinking | None, skipped: bool) -> None:
    models = adapters(template)
    for model in models:
        switch(model, template, thinking, ANSWER_OF)
    texts = {model.apply_chat_template(HISTORY) for model in models}
    assert texts == {"<system>Be short.<user>1 + 1?<a>" + (SKIP if skipped else "")}
    assert {model.apply_chat_template(HISTORY, add_generation_prompt=False) for model in models} == {
        "<system>Be short.<user>1 + 1?"
    }


def test_by_themselves_they_differ() -> None:
    """The reason for `switch`; if this fails, lm-eval has changed."""
    texts = [model.apply_chat_template(HISTORY) for model in adapters(TEMPLATES["unless falsy"])]
    assert texts[0] != texts[1]


def test_system_turns_that_a_template_refuses_are_left_out_on_both() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + TURNS
    models = adapters(template + "{% endif %}")
    for model in models:
        switch(model, template, None, ANSWER_OF)
    assert {model.apply_chat_template(HISTORY) for model in models} == {"<user>1 + 1?<a>"}


def answered(model: Any, thinking: Thinking | None, texts: list[str]) -> tuple[Thoughts | None, list[str], list[Any]]:
    """What counts the thoughts of an adapter that generates these texts, its answers, and the stops that it got."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.utils import postprocess_generated_text

    stops: list[Any] = []

    def generate(requests: Any, **_: Any) -> list[str]:
        stops.extend(each.args[1]["until"] for each in requests)
        return texts

    model.generate_until = generate
    thoughts = switch(model, TEMPLATES["unless false"], thinking, postprocess_generated_text)
    asked = [Instance("generate_until", {}, (f"{n} + 1?", {"until": ["\n\n"]}), n) for n in range(len(texts))]
    answers = model.generate_until(asked)
    assert all(each.args[1] == {"until": ["\n\n"]} for each in asked), "the requests of lm-eval stay as they are"
    return thoughts, answers, stops


TEXTS = ["First:\n\n7?</think>\n8\n\nQuestion", "Well:\n\n7 or 9", "</think>5"]


def test_every_adapter_stops_after_the_thought_and_counts_those_without_an_end() -> None:
    for model in adapters(TEMPLATES["unless false"]):
        thoughts, answers, stops = answered(model, Thinking.ON, TEXTS)
        assert answers == ["8", "Well:", "5"]
        assert stops == [[], [], []]
        assert thoughts is not None
        assert (thoughts.cut, thoughts.ended) == (1, 2)
        assert thoughts.notes("quiz")[0].startswith(
            "quiz: 1 of 3 answers end before their thought does: they are scored"
        )


def test_thoughts_that_nobody_asked_for_are_told_and_stay() -> None:
    model = adapters(TEMPLATES["unless false"])[0]
    thoughts, answers, stops = answered(model, None, TEXTS)
    assert (answers, stops) == (TEXTS, [["\n\n"]] * 3)
    assert thoughts is not None
    assert thoughts.cut is None
    assert thoughts.notes("quiz") == [
        "quiz: 2 answers contain a thought, which is scored with them: use --thinking on or off"
    ]
    thoughts, answers, stops = answered(model, Thinking.OFF, TEXTS)
    assert (thoughts, answers, stops) == (None, TEXTS, [["\n\n"]] * 3)


@pytest.mark.parametrize(
    ("template", "thinking", "cause"),
    [
        (TURNS, Thinking.OFF, "no argument enable_thinking"),
        (TURNS, Thinking.ON, "no argument enable_thinking"),
        ("{{ enable_thinking }}", Thinking.ON, "does not show where a thought ends"),
    ],
)
def test_a_template_without_the_switch_refuses_it(template: str, thinking: Thinking, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        switch(adapters(template)[0], template, thinking, ANSWER_OF)
