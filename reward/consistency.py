"""The reward `consistency`: the answer follows from the reasoning, by a rule on the text instead of a judge."""

import re
from collections.abc import Iterator

from audio_qa.answer import extract_answer, nfc, normal_form, split_thinking
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question

_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")


def consistency(question: Question, completion_text: str, template: PromptTemplate) -> float:
    """Return 1.0 if the reasoning concludes with the option of the answer, and no other; else 0.0.

    The reasoning is all thinking of the completion, and the answer is in `<answer>…</answer>` after it, both as
    `audio_qa.answer` takes them. The last sentence of the reasoning that names any option must name the answer's option
    and no other one; earlier sentences do not matter. Case is ignored, except for options of one letter. The reward is
    0.0 for an answer that is not an option, or that no sentence names. It does not depend on whether the answer is
    right.
    """
    parts = split_thinking(completion_text)
    if parts is None or "<answer>" not in parts.rest:
        return 0.0
    answer = _key(extract_answer(completion_text))
    keys = {_key(choice) for choice in question.choices if choice.strip()}
    return float(answer in keys and _concluded(nfc(parts.thinking), question) == {answer})


def _concluded(thinking: str, question: Question) -> set[str]:
    """Return the options in the last sentence that names any."""
    concluded: set[str] = set()
    end = 0
    for start, stop, key in _named(thinking, question):
        if _SENTENCE_END.search(thinking[end:start]):
            concluded = set()
        concluded.add(key)
        end = stop
    return concluded


def _named(thinking: str, question: Question) -> Iterator[tuple[int, int, str]]:
    """Yield start, stop and key of each option in the text. Of options with the same start, the longest counts."""
    choices = sorted({normal_form(choice) for choice in question.choices if choice.strip()}, key=len, reverse=True)
    if not choices:
        return
    # Whole words only, and not within a decimal number.
    pattern = rf"(?<!\w)(?<!\d\.)(?:{'|'.join(map(_pattern, choices))})(?!\w|\.\d)"
    for match in re.finditer(pattern, thinking):
        yield match.start(), match.end(), _key(match[0])


def _pattern(choice: str) -> str:
    words = r"\s+".join(map(re.escape, choice.split()))
    # "a" is a common word, "A" hardly.
    return words if len(choice) == 1 else f"(?i:{words})"


def _key(option: str) -> str:
    """Return the normal form of an option."""
    text = " ".join(nfc(option).split())
    return text if len(text) == 1 else text.casefold()
