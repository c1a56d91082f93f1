"""A reward for an answer that follows from its reasoning: a rule on the text, in place of a judge's opinion."""

import re
from collections.abc import Iterator

from audio_qa.answer import extract_answer, split_thinking
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question

_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")


def consistency(question: Question, completion_text: str, template: PromptTemplate) -> float:
    """1.0 if the reasoning comes to the option that the answer gives, and to no other; else 0.0.

    The reasoning is what stands in the first `<think>…</think>`, the answer what stands in `<answer>…</answer>` behind
    it. The last sentence of the reasoning that names an option at all has to name the answer's option and no other one:
    what is weighed before does not matter. Upper and lower case are the same, but for options of one letter. An answer
    that is no option, or an option that no sentence names, is 0.0. Whether the answer is right plays no part.
    """
    parts = split_thinking(completion_text)
    if parts is None or "<answer>" not in parts[1]:
        return 0.0
    thinking, rest = parts
    answer = _key(extract_answer(rest))
    keys = {_key(choice) for choice in question.choices if choice.strip()}
    return float(answer in keys and _concluded(thinking, question) == {answer})


def _concluded(thinking: str, question: Question) -> set[str]:
    """The options that the last sentence names which names one."""
    concluded: set[str] = set()
    end = 0
    for start, stop, key in _named(thinking, question):
        if _SENTENCE_END.search(thinking[end:start]):
            concluded = set()
        concluded.add(key)
        end = stop
    return concluded


def _named(thinking: str, question: Question) -> Iterator[tuple[int, int, str]]:
    """Where options are named, from start to stop. Of options that begin at one place the longest is meant."""
    choices = sorted({choice.strip() for choice in question.choices if choice.strip()}, key=len, reverse=True)
    if not choices:
        return
    # Whole words only, and no part of a decimal number.
    pattern = rf"(?<!\w)(?<!\d\.)(?:{'|'.join(map(_pattern, choices))})(?!\w|\.\d)"
    for match in re.finditer(pattern, thinking):
        yield match.start(), match.end(), _key(match[0])


def _pattern(choice: str) -> str:
    words = r"\s+".join(map(re.escape, choice.split()))
    # "a" is a word of every sentence, "A" hardly.
    return words if len(choice) == 1 else f"(?i:{words})"


def _key(option: str) -> str:
    """What is the same for all ways of writing an option."""
    text = " ".join(option.split())
    return text if len(text) == 1 else text.casefold()
