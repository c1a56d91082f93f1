"""The scorer against transcriptions of the official rules, on every item of the real question files.

The transcriptions are written from the descriptions of the rules and share no code with the scorer.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shared_files import shared_file

from audio_qa.files.reader import read_questions
from audio_qa.question import Question
from audio_qa.scoring.nearest import nearest_choice
from audio_qa.scoring.rules import RULES, rule_of, strictly_right

Item = dict[str, Any]


def mmau_says(prediction: str, item: Item) -> bool:
    """Token sets of \\b\\w+\\b in lower case; every answer token, and none that only wrong choices have."""

    def words(text: str) -> list[str]:
        return re.findall(r"\b\w+\b", text.lower())

    said = words(prediction)
    if said == []:
        return False
    wanted = words(item["answer"])
    for word in wanted:
        if word not in said:
            return False
    for choice in item["choices"]:
        for word in words(choice):
            if word in said and word not in wanted:
                return False
    return True


def wrong_choice(item: Item) -> str:
    return next(
        choice for choice in [*item["choices"], "something else"] if choice.strip() and choice != item["answer"]
    )


PREDICTIONS: dict[str, Callable[[Item], str]] = {
    "right": lambda item: item["answer"],
    "wrong": wrong_choice,
    "empty": lambda _: "",
    "blank": lambda _: " \n\t",
    "two options": lambda item: f"{item['answer']} or {wrong_choice(item)}",
    "all options": lambda item: ", ".join(item["choices"]),
    "substring": lambda item: item["answer"][: max(1, len(item["answer"]) // 2)],
    "half of the words": lambda item: " ".join(item["answer"].split()[: max(1, len(item["answer"].split()) // 2)]),
    "longer words": lambda item: item["answer"] + "s",
    "other case": lambda item: item["answer"].swapcase(),
    "punctuation": lambda item: f"“{item['answer']}”!?...",
    "without spaces": lambda item: item["answer"].replace(" ", "_"),
    "unicode": lambda item: f"答案是：{item['answer']} é ẞ İ \u200b🎵",
    "unicode inside": lambda item: item["answer"].replace("e", "é"),
    "option letter": lambda item: "ABCDEFGH"[item["choices"].index(item["answer"])],
    "letter and option": lambda item: f"({'ABCDEFGH'[item['choices'].index(item['answer'])]}) {item['answer']}",
    "in tags": lambda item: f"<answer>{item['answer']}</answer>",
    "wrong in tags": lambda item: f"<answer>{wrong_choice(item)}</answer>",
    "long reasoning": lambda item: (
        f"The question is: {item['question']} Of {' / '.join(item['choices'])} most can be ruled out. " * 20
        + f"So the answer is {item['answer']}."
    ),
    "long reasoning about the answer alone": lambda item: "I listen once more. " * 50 + item["answer"],
    "another question's answer": lambda _: "forty-two",
}


@pytest.mark.parametrize("name", ["mmau-test-mini.json", "mmar-meta.jsonl"])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_item_of_the_real_files_is_judged_as_the_official_rule_does(name, kind, real):
    found, items = real(name)
    rule = rule_of(found.source.format)
    for question, item in zip(found.questions, items, strict=True):
        prediction = PREDICTIONS[kind](item)
        assert rule.official(prediction, question) is mmau_says(prediction, item), (question.id, prediction)
        tagged = re.search(r"<answer>(.*?)</answer>", prediction, re.DOTALL)
        named = (tagged[1] if tagged else prediction).strip()
        assert strictly_right(prediction, question) is (named == item["answer"].strip()), (question.id, prediction)


@pytest.fixture(scope="module")
def real():
    """A question set and the raw items of its file."""
    kept: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in kept:
            path = shared_file(name)
            text = path.read_text(encoding="utf-8")
            items = (
                json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.split("\n") if line]
            )
            kept[name] = read_questions(path, check_audio=False), items
        return kept[name]

    return load


def test_on_real_items_a_right_choice_is_right_unless_the_rule_cannot_tell_choices_apart(real):
    for name in ("mmau-test-mini.json", "mmar-meta.jsonl"):
        found, _ = real(name)
        rule = rule_of(found.source.format)
        assert all(rule.official(q.answer, q) for q in found.questions)
        assert not any(rule.official("", q) for q in found.questions)
        assert all(rule.official(None, q) is None for q in found.questions)


words = st.text(alphabet="ab cA-_.,é1", max_size=12)


@given(prediction=words, choices=st.lists(words, min_size=2, max_size=5), right=st.integers(0, 4))
def test_the_string_match_agrees_on_any_text(prediction, choices, right):
    answer = choices[right % len(choices)]
    item = {"answer": answer, "choices": choices}
    ours = RULES["mmau"].official(prediction, Question("d", 0, "0", "", "?", tuple(choices), answer))
    assert ours is mmau_says(prediction, item)


def air_bench_says(response: str, item: Item) -> bool | None:
    """The first character if it is A to D, else the second to last; without either the item is not counted."""
    cleaned = "".join(response.strip().split("\n"))
    if cleaned in {"", "None"}:
        return None
    said = None
    if cleaned[0] in {"A", "B", "C", "D"}:
        said = cleaned[0]
    elif len(cleaned) >= 2 and cleaned[len(cleaned) - 2] in {"A", "B", "C", "D"}:
        said = cleaned[len(cleaned) - 2]
    if said is None:
        return None
    options = {"A": item["choice_a"], "B": item["choice_b"], "C": item.get("choice_c"), "D": item.get("choice_d")}
    return said == next(letter for letter, option in options.items() if option == item["answer_gt"])


AIR_BENCH = {"choice_a": "Cat", "choice_b": "dog", "choice_c": "rain", "choice_d": "Dog", "answer_gt": "dog"}
AIR_QUESTION = Question("d", 0, "0", "", "?", ("Cat", "dog", "rain", "Dog"), "dog")


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("B", True),
        ("B. dog", True),
        ("A", False),
        ("Cat", False),
        ("Both", True),
        ("The answer is B.", True),
        ("The answer is\nB.", True),
        ("the answer is (B)", True),
        ("dog", None),
        ("b", None),
        ("None", None),
        ("", None),
        (" \n", None),
        ("I hear D", None),
        ("答案是B。", True),
    ],
)
def test_air_benchs_single_choice(response, right):
    assert air_bench_says(response, AIR_BENCH) is right
    assert RULES["air_bench"].official(response, AIR_QUESTION) is right


@given(st.text(alphabet="ABCDab .\n(é", max_size=6))
def test_air_benchs_rule_agrees_on_any_text(response):
    assert RULES["air_bench"].official(response, AIR_QUESTION) is air_bench_says(response, AIR_BENCH)


def mmau_pro_stands_in(prediction: str | None, choices: list[str]) -> str | None:
    """The choice itself, else the largest cosine of counts of "^do dog og$", the first one of equals."""
    said = (prediction or "").strip()
    named = [choice for choice in choices if choice.strip() == said]
    if named:
        return named[0]

    def vector(text: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        for word in re.split(r"[^\w]+", text.lower()):
            padded = f"^{word}$" if word else ""
            for start in range(max(0, len(padded) - 2)):
                counts[padded[start : start + 3]] = counts.get(padded[start : start + 3], 0) + 1
        return counts

    def cosine(choice: str) -> float:
        one, other = vector(said), vector(choice)
        norm = sum(v * v for v in one.values()) * sum(v * v for v in other.values())
        return sum(v * other.get(k, 0) for k, v in one.items()) / norm**0.5 if norm else 0.0

    found = [(round(cosine(choice), 9), -place, choice) for place, choice in enumerate(choices)]
    best = max(found)
    return best[2] if best[0] else None


@pytest.mark.parametrize("name", ["mmau-test-mini.json", "mmar-meta.jsonl"])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_on_real_items_the_nearest_choice_stands_in_for_mmau_pros(name, kind, real):
    found, items = real(name)
    rule = RULES["mmau_pro"]
    for question, item in zip(found.questions, items, strict=True):
        prediction = PREDICTIONS[kind](item)
        nearest = mmau_pro_stands_in(prediction, item["choices"])
        assert rule.official(prediction, question) is (nearest == item["answer"]), (question.id, prediction)


def test_where_the_prediction_is_a_choice_the_stand_in_is_as_good_as_embeddings(real):
    found, items = real("mmar-meta.jsonl")
    rule = RULES["mmau_pro"]
    for question, item in zip(found.questions, items, strict=True):
        assert all(rule.official(choice, question) is (choice == item["answer"]) for choice in item["choices"])
        # As in the official script nothing is skipped: a missing prediction counts as empty.
        assert rule.official(None, question) is False


@pytest.mark.parametrize(
    ("prediction", "nearest"),
    [
        ("I hear dogs barking", "a dog"),
        ("DOG!", "a dog"),
        ("rain", "rain"),
        ("It rains", "rain"),
        ("B", None),
        ("", None),
    ],
)
def test_the_nearest_choice_shares_the_most_letters(prediction, nearest):
    assert nearest_choice(prediction, ["a dog", "rain", "a dog"]) == nearest


@pytest.mark.parametrize(
    ("completion", "handed_in"),
    [("<answer>dog</answer>", "B"), ("rain", "C"), (" Cat ", "A"), ("D", "D"), ("a dog", "a dog")],
)
def test_a_verbatim_choice_is_submitted_as_its_letter(completion, handed_in):
    assert RULES["air_bench"].prediction(completion, AIR_QUESTION) == handed_in


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("dog", True),
        (" dog\n", True),
        ("<think>x</think><answer>dog</answer>", True),
        ("Dog", False),
        ("dog.", False),
        ("B", False),
        ("", False),
        (None, False),
    ],
)
def test_the_strict_rule_requires_the_right_choice_verbatim(prediction, right):
    assert strictly_right(prediction, AIR_QUESTION) is right


def test_a_rule_that_is_not_official_says_so():
    assert {name for name, rule in RULES.items() if not rule.is_official} == {"mmau_pro"}
    assert rule_of("earshot").name == "paper"
