"""Rendering of questions by a model's chat template, and the tokens that a model may answer with.

Rollout workers and the learner both build their prompts here, so both get the same token ids. This module does not
import transformers: any object with the methods of the protocols below is a processor or tokenizer.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError

from audio_qa.errors import InputError, cause_of
from audio_qa.families import FACTS
from audio_qa.model_folder.documents import end_token_ids
from audio_qa.prompt import PromptTemplate, user_text
from audio_qa.question import Question


class ChatError(InputError):
    """A question that the model's chat template does not render as a prompt about one clip."""


class ChatProcessor(Protocol):
    """The part of a transformers processor that turns a conversation into text."""

    @property
    def audio_token(self) -> str: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...


_END_OF_TURN = "<|im_end|>"


class Vocabulary(Protocol):
    """The part of a transformers tokenizer that distinguishes special tokens from text."""

    @property
    def eos_token_id(self) -> int | None: ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...

    def get_vocab(self) -> Mapping[str, int]: ...

    def __len__(self) -> int: ...


def render(processor: ChatProcessor, question: Question, template: PromptTemplate) -> str:
    """Return the chat of one user turn (the audio, then the text), with the audio as ONE unexpanded placeholder.

    Raises ChatError for any other number of placeholders, since no other part of the system would notice a missing
    clip, and for a chat template that fails.
    """
    content = [
        {"type": "audio", "audio_url": question.audio},
        {"type": "text", "text": user_text(question, template)},
    ]
    conversation = [{"role": "user", "content": content}]
    try:
        text = str(processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))
    except (TemplateError, ValueError, TypeError, LookupError) as error:
        raise ChatError(
            f"question {question.key}: the model's chat template fails ({cause_of(error)}); "
            "download the model's folder again"
        ) from error
    found = text.count(processor.audio_token)
    if found != 1:
        raise ChatError(
            f"question {question.key}: its prompt has {processor.audio_token} {found} times instead of once: the chat "
            "template leaves the clip out, or the text of the question contains it"
        )
    return text


def stop_token_ids(folder: str, tokenizer: Vocabulary) -> tuple[int, ...]:
    """Return the tokens that end a model's turn, sorted.

    They are the tokenizer's end of text, the chat's end of turn, and those of the generation configuration of the
    checkpoint in `folder`, if it has one. Raises ModelError if that cannot be used.
    """
    ids = {tokenizer.eos_token_id, tokenizer.get_vocab().get(_END_OF_TURN), *end_token_ids(Path(folder))}
    return tuple(sorted(i for i in ids if i is not None))


def banned_token_ids(tokenizer: Vocabulary, vocabulary_size: int, stop_token_ids: Iterable[int]) -> tuple[int, ...]:
    """Return the tokens that must never be sampled: audio and chat markers, and rows of the head without a token.

    A sampled audio placeholder would make the learner look for audio inside a completion. The stop tokens stay
    allowed. Workers and learner mask exactly these tokens, so the learner scores the distribution that is sampled.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if getattr(token, "special", False)}
    vocabulary = tokenizer.get_vocab()
    # Some tokenizers treat it as an ordinary token.
    audio = {vocabulary[facts.audio_token] for facts in FACTS.values() if facts.audio_token in vocabulary}
    padding = set(range(len(tokenizer), vocabulary_size))
    return tuple(sorted((special | audio | padding) - set(stop_token_ids)))
