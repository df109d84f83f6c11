"""Both engines ask the same question: a chat prompt, rendered through lm-eval's adapter for each, is one text."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from slim_eval.benchmarks.prompts import switch
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
        model.tok_decode, model.__dict__["eot_token_id"] = (lambda *_, **__: "<end>"), 0
    return made


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize(
    ("thinking", "skipped"), [(None, False), (Thinking.ON, False), (Thinking.OFF, True)], ids=["default", "on", "off"]
)
def test_both_adapters_render_one_prompt(template: str, thinking: Thinking | None, skipped: bool) -> None:
    models = adapters(template)
    for model in models:
        switch(model, template, thinking)
    texts = {model.apply_chat_template(HISTORY) for model in models}
    assert texts == {"<system>Be short.<user>1 + 1?<a>" + (SKIP if skipped else "")}
    assert {getattr(model, "think_end_token", None) for model in models} == {
        "</think>" if thinking is Thinking.ON else None
    }
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
        switch(model, template, None)
    assert {model.apply_chat_template(HISTORY) for model in models} == {"<user>1 + 1?<a>"}


def test_transformers_generates_past_stop_sequences_inside_a_thought() -> None:
    model = adapters(TEMPLATES["unless false"])[0]
    asked: list[list[str]] = []
    model._model_generate = lambda context, max_length, stop, **options: asked.append(stop)
    switch(model, TEMPLATES["unless false"], Thinking.ON)
    model._model_generate(context=None, max_length=9, stop=["\n\n", "<end>"], attention_mask=None)
    assert asked == [["<end>"]]


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
        switch(adapters(template)[0], template, thinking)
