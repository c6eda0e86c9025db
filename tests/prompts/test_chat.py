"""Prompts put through a GGUF's own chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny

from localprobe import api
from localprobe.errors import LocalprobeError
from localprobe.experiments.swap import plan_swap
from localprobe.llama.model import Model
from localprobe.prompts.chat import ChatTemplate
from localprobe.prompts.encoder import Encoder

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} Chad: {{ m['content'] | trim }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}Reply:{% endif %}"
)


def chat_model(tmp_path: Path, template: str, adds: tuple[str, ...] = ()) -> Model:
    path = tiny.write(tiny.build("llama"), tmp_path / "chat.gguf", adds, template)
    return Model(path, threads=1)


@pytest.mark.parametrize("adds", [(), ("bos",), ("bos", "eos")])
def test_tokens_of_a_chat(adds: tuple[str, ...], tmp_path: Path) -> None:
    with chat_model(tmp_path, TEMPLATE, adds) as model:
        tokens = Encoder(model, ChatTemplate(model)).tokens(" in Chad ")
        # The begin token stands in the template: it must not come twice.
        assert tokens == [
            tiny.EOS,
            *b"user Chad: in Chad",
            tiny.EOS,
            *b"Reply:",
        ]


def test_without_a_begin_token_in_the_template_the_gguf_says(tmp_path: Path) -> None:
    with chat_model(tmp_path, "{{ messages[0]['content'] }}!", ("bos",)) as model:
        assert Encoder(model, ChatTemplate(model)).tokens("hi") == [tiny.EOS, *b"hi!"]


def test_a_swap_looks_at_the_prompt_and_not_at_the_template(tmp_path: Path) -> None:
    with chat_model(tmp_path, TEMPLATE) as model:
        plan = plan_swap(Encoder(model, ChatTemplate(model)), " in Chad ", "Chad", "Mali")
        start = 1 + len("user Chad: in ")
        assert plan.at == plan.donor_at == tuple(range(start, start + 4))
        assert plan.donor[start : start + 4] == tuple(b"Mali")


def test_probe_with_chat_is_probe_of_the_rendered_tokens(tmp_path: Path) -> None:
    path = tiny.write(tiny.build("llama"), tmp_path / "chat.gguf", (), TEMPLATE)
    with api.Model(path, threads=1) as model:
        found = api.probe(model, "in Chad", ["skip"], layers="2", max_tokens=2, chat=True)
        assert found.tokens == (tiny.EOS, *b"user Chad: in Chad", tiny.EOS, *b"Reply:")
        plain = api.probe(model, "in Chad", ["skip"], layers="2", max_tokens=2)
        assert plain.tokens == tuple(b"in Chad")


@pytest.mark.parametrize(
    ("template", "prompt", "message"),
    [
        ("", "hi", "holds no chat template"),
        ("{{ nothing", "hi", "cannot be used"),
        ("{{ raise_exception('no') }}", "hi", "refuses the prompt: no"),
        ("{{ 1 // 0 }}", "hi", "cannot be used"),
        ("hello", "hi", "changes the prompt"),
        ("{{ messages[0]['content'] | upper }}", "hi", "changes the prompt"),
        ("{{ messages[0]['content'] }}:", "a <|end|> b", "control token"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "hi", "cannot be used"),
        ("{{ range }}{{ messages[0]['content'] }}", "hi", "now this, now that"),
        ("{{ [1, 2] | random }}{{ messages[0]['content'] }}", "hi", "cannot be used"),
        ("{{ lipsum() }}{{ messages[0]['content'] }}", "hi", "cannot be used"),
        ("{{ messages.append(1) }}{{ messages[0]['content'] }}", "hi", "cannot be used"),
    ],
)
def test_templates_that_are_refused(
    template: str, prompt: str, message: str, tmp_path: Path
) -> None:
    with (
        chat_model(tmp_path, template) as model,
        pytest.raises(LocalprobeError, match=message),
    ):
        Encoder(model, ChatTemplate(model)).tokens(prompt)


def test_a_begin_token_after_a_space_is_not_doubled(tmp_path: Path) -> None:
    with chat_model(tmp_path, " {{ bos_token }}{{ messages[0]['content'] }}", ("bos",)) as model:
        assert Encoder(model, ChatTemplate(model)).tokens("hi") == [ord(" "), tiny.EOS, *b"hi"]


def test_a_swap_in_a_template_that_repeats_the_prompt_is_refused(tmp_path: Path) -> None:
    twice = "{{ messages[0]['content'] }} and {{ messages[0]['content'] }}."
    with (
        chat_model(tmp_path, twice) as model,
        pytest.raises(LocalprobeError, match="repeats the prompt"),
    ):
        plan_swap(Encoder(model, ChatTemplate(model)), "in Chad now", "Chad", "Mali")


@pytest.mark.parametrize(
    "bomb",
    [
        # Hours of work, and exabytes of text.
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 12 }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}{{ ns.x }}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_that_never_ends_is_stopped(bomb: str, tmp_path: Path) -> None:
    with chat_model(tmp_path, "{{ messages[0]['content'] }}" + bomb) as model:
        with pytest.raises(LocalprobeError, match=r"takes|writes|cannot be used") as caught:
            ChatTemplate(model, seconds=3).render("hi")
        assert len(str(caught.value)) < 300


def test_a_template_cannot_reach_files_or_the_environment(tmp_path: Path) -> None:
    for source in (
        "{{ cycler.__init__.__globals__.os.environ }}{{ messages[0]['content'] }}",
        "{% include '/etc/hostname' %}{{ messages[0]['content'] }}",
        "{{ self.__init__.__globals__ }}{{ messages[0]['content'] }}",
    ):
        with chat_model(tmp_path, source) as model, pytest.raises(LocalprobeError, match="--chat"):
            ChatTemplate(model).render("hi")
