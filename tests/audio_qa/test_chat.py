"""Prompts with exactly one clip, and the tokens that must never be sampled."""

from types import SimpleNamespace
from typing import Any

import pytest

from audio_qa.chat import ChatError, banned_token_ids, render
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question

QUESTION = Question("d", 0, "q", "/clip.wav", "What is heard?", ("a dog", "a cat"), "a dog")


class Processor:
    """A processor that renders its template with the parts of the user's turn."""

    def __init__(self, template: str, audio_token: str = "<sound>") -> None:
        self.template, self.audio_token = template, audio_token

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> str:
        audio, text = conversation[0]["content"]
        assert audio["type"] == "audio"
        assert options == {"add_generation_prompt": True, "tokenize": False}
        return self.template.format(text=text["text"])


class Tokenizer:
    eos_token_id = 2

    def __init__(self, audio_token: str) -> None:
        self.audio_token = audio_token
        self.added_tokens_decoder = {0: SimpleNamespace(special=True), 1: SimpleNamespace(special=False)}

    def get_vocab(self) -> dict[str, int]:
        return {"<|im_start|>": 0, self.audio_token: 1, "<|im_end|>": 2, "a": 3}

    def __len__(self) -> int:
        return 4


@pytest.mark.parametrize("token", ["<sound>", "<|AUDIO|>"])
def test_a_prompt_has_its_clip_once(token: str) -> None:
    text = render(Processor(f"user\n{token}{{text}}\n", token), QUESTION, PromptTemplate.PLAIN)
    assert text.startswith(f"user\n{token}What is heard?")


@pytest.mark.parametrize("template", ["user\n{text}\n", "user\n<sound><sound>{text}\n"])
def test_a_prompt_without_its_clip_is_refused(template: str) -> None:
    with pytest.raises(ChatError, match=r"question d.*<sound> [02] times"):
        render(Processor(template), QUESTION, PromptTemplate.PLAIN)


@pytest.mark.parametrize("token", ["<sound>", "<|AUDIO|>"])
def test_an_audio_token_is_banned_also_where_it_is_an_ordinary_one(token: str) -> None:
    """Special tokens and rows without a token are banned, too; stop tokens are not."""
    assert banned_token_ids(Tokenizer(token), 6, [2]) == (0, 1, 4, 5)
    assert banned_token_ids(Tokenizer("b"), 6, [2]) == (0, 4, 5)
