"""How a question becomes the text a model reads, and which tokens a model may answer with.

Rollout workers and the learner both build their prompts here, so both see the same token ids. Nothing here imports
transformers: a processor and a tokenizer are whatever has the few methods named below.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from audio_qa.prompt import PromptTemplate, user_text
from audio_qa.question import Question


class ChatProcessor(Protocol):
    """The part of a transformers processor that turns a conversation into text."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...


_END_OF_TURN = "<|im_end|>"


class Vocabulary(Protocol):
    """The part of a transformers tokenizer that tells special tokens from text."""

    @property
    def eos_token_id(self) -> int | None: ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...

    def get_vocab(self) -> Mapping[str, int]: ...

    def __len__(self) -> int: ...


def render(processor: ChatProcessor, question: Question, template: PromptTemplate) -> str:
    """The chat of one user turn (the audio, then the text) with the audio as ONE unexpanded placeholder."""
    content = [
        {"type": "audio", "audio_url": question.audio},
        {"type": "text", "text": user_text(question, template)},
    ]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return str(text)


def stop_token_ids(folder: str, tokenizer: Vocabulary) -> tuple[int, ...]:
    """The tokens that end a model's turn, sorted.

    They are the tokenizer's end of text, the chat's end of turn, and what the generation configuration of the
    checkpoint in `folder` adds, where it has one.
    """
    ids = {tokenizer.eos_token_id, tokenizer.get_vocab().get(_END_OF_TURN)}
    path = Path(folder) / "generation_config.json"
    if path.is_file():
        ends = json.loads(path.read_text()).get("eos_token_id")
        ids.update(ends if isinstance(ends, list) else [ends])
    return tuple(sorted(i for i in ids if i is not None))


def banned_token_ids(tokenizer: Vocabulary, vocabulary_size: int, stop_token_ids: Iterable[int]) -> tuple[int, ...]:
    """Tokens that must never be sampled: audio and chat markers, and rows of the head that are no token at all.

    A sampled audio placeholder would make the learner look for audio inside a completion. The stop tokens stay
    allowed. Both sides mask exactly these, so the distribution that is sampled is the one that is scored.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if getattr(token, "special", False)}
    padding = set(range(len(tokenizer), vocabulary_size))
    return tuple(sorted((special | padding) - set(stop_token_ids)))
