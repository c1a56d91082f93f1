"""How a question becomes the text a model reads, and which tokens a model may answer with.

Rollout workers and the learner both build their prompts here, so both see the same token ids. Nothing here imports
transformers: a processor and a tokenizer are whatever has the few methods named below.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from audio_qa.families import FACTS
from audio_qa.prompt import PromptTemplate, user_text
from audio_qa.question import Question


class ChatError(ValueError):
    """A question that its model's chat template does not make a prompt about one clip of."""


class ChatProcessor(Protocol):
    """The part of a transformers processor that turns a conversation into text."""

    @property
    def audio_token(self) -> str: ...

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
    """The chat of one user turn (the audio, then the text) with the audio as ONE unexpanded placeholder.

    Raises ChatError where it is not one: no other part of the system would notice that the model hears nothing.
    """
    content = [
        {"type": "audio", "audio_url": question.audio},
        {"type": "text", "text": user_text(question, template)},
    ]
    text = str(
        processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    )
    found = text.count(processor.audio_token)
    if found != 1:
        raise ChatError(
            f"question {question.key}: its prompt has {processor.audio_token} {found} times in place of once: the chat "
            "template leaves the clip out, or the question's own text holds it"
        )
    return text


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
    vocabulary = tokenizer.get_vocab()
    # Also in a tokenizer that takes it for an ordinary token.
    audio = {vocabulary[facts.audio_token] for facts in FACTS.values() if facts.audio_token in vocabulary}
    padding = set(range(len(tokenizer), vocabulary_size))
    return tuple(sorted((special | audio | padding) - set(stop_token_ids)))
