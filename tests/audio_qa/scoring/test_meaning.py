"""Every count works on the answer that a prediction means, in every format."""

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import NFC

from audio_qa.question import Question
from audio_qa.scoring.nearest import nearest_choice
from audio_qa.scoring.rules import PAPER, RULES, strictly_right
from audio_qa.scoring.sampling import majority_vote
from audio_qa.scoring.score import judge

AIR = RULES["air_bench"]
ALL_RULES = [*RULES.values(), PAPER]
ANIMALS = Question("d", 0, "0", "", "?", ("a dog", "a cat", "rain", "A. cow"), "a cat")


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_completion_with_a_choice_counts_the_same_everywhere(rule, count):
    question = replace(ANIMALS, choices=ANIMALS.choices[:count])
    for choice in question.choices:
        completion = f"<think>I hear <answer>a cat</answer>.</think><answer>{choice}</answer>"
        prediction = rule.prediction(completion, question)
        (judged,) = judge([question], [prediction], rule)
        right = choice == "a cat"
        assert (judged.official, judged.strict) == (right, right), (choice, prediction)
        assert rule.meant(prediction, question) == choice
        assert rule.voted(["rain?", completion, completion], question) == prediction


@pytest.mark.parametrize(
    ("response", "official", "meant"),
    [
        ("B", True, "a cat"),
        ("(B)", True, "a cat"),
        ("[B]", True, "a cat"),
        ("B.", True, "a cat"),
        (" B) \n", True, "a cat"),
        ("B. a cat", True, "a cat"),
        ("B: a cat", True, "a cat"),
        ("(B) a cat", None, "a cat"),
        ("<answer>B</answer>", None, "a cat"),
        ("a cat", None, "a cat"),
        ("A", False, "a dog"),
        ("A. a dog", False, "a dog"),
        # A choice that looks like a letter and a text.
        ("A. cow", False, "A. cow"),
        ("D", False, "A. cow"),
        # A letter and another choice's text do not agree; a letter and a word are a text.
        ("B. a dog", True, "B. a dog"),
        ("A dog", False, "A dog"),
        ("B because it meows", True, "B because it meows"),
        # As in the script, letters are capitals, of at most four choices.
        ("b", None, "b"),
        ("E", None, "E"),
        ("", None, ""),
    ],
)
def test_a_response_of_air_bench_means_a_choice(response, official, meant):
    assert AIR.meant(response, ANIMALS) == meant
    (judged,) = judge([ANIMALS], [response], AIR)
    assert (judged.official, judged.strict) == (official, meant == "a cat")


def test_a_letter_beyond_the_choices_is_wrong():
    question = replace(ANIMALS, choices=("a dog", "a cat"))
    for response in ("C", "(D)", "D. rain"):
        (judged,) = judge([question], [response], AIR)
        assert (judged.official, judged.strict) == (False, False)
        assert AIR.prediction(response, question) == response


def test_letters_of_choices_that_are_letters_are_read_as_the_script_does():
    question = Question("d", 0, "0", "", "Which key?", ("B", "A"), "A")
    # A model that says "A" means that choice, the second one; a response "A" is the first one.
    assert AIR.prediction("<answer>A</answer>", question) == "B"
    judged = judge([question] * 2, ["B", "A"], AIR)
    assert [(j.official, j.strict) for j in judged] == [(True, True), (False, False)]


def test_choices_with_the_same_text_are_both_right():
    question = Question("d", 0, "0", "", "?", ("a dog", "a cat", "a dog"), "a dog")
    judged = judge([question] * 3, ["A", "B", "C"], AIR)
    assert [j.strict for j in judged] == [True, False, True]
    # The script knows the first one only.
    assert [j.official for j in judged] == [True, False, False]
    assert all(rule.prediction("a dog", question) in ("a dog", "A") for rule in ALL_RULES)


@given(st.lists(st.text("ABab. ()", max_size=4), min_size=2, max_size=4, unique=True), st.integers(0, 3))
def test_what_is_submitted_means_the_answer_again(choices, place):
    """The choices are any texts, also such that look like letters with marks."""
    choices = list(dict.fromkeys(choice.strip() for choice in choices))
    question = Question("d", 0, "0", "", "?", tuple(choices), choices[place % len(choices)])
    for rule in ALL_RULES:
        assert rule.meant(rule.prediction(f"<answer>{question.answer}</answer>", question), question) == question.answer


def test_votes_count_what_is_meant():
    # Two of four mean the cat, in two notations.
    assert AIR.voted(["a dog", "a cat", "(B)", "rain"], ANIMALS) == "B"
    numbers = Question("d", 0, "0", "", "?", ("2", "3"), "2")
    assert PAPER.voted(["3", "2.0", "2"], numbers) == "2"
    assert majority_vote(["3", "2.0", " 2"], ("2", "3")) == "2"
    assert majority_vote(["3", "3.0", "2"]) == "3"
    # Choices of equal value are different answers.
    assert majority_vote(["3/4", "6/8", "6/8"], ("3/4", "6/8")) == "6/8"
    assert majority_vote(["3/4", "6/8", "3/4", "6/8", "2"], ("2", "3/4", "6/8")) == "3/4"
    nfd = unicodedata.normalize("NFD", "café")
    assert majority_vote(["tea", nfd, "café"], ("tea", "café")) == nfd


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_a_model_whose_tokenizer_normalises_can_be_right(rule):
    """Texts of the question file are not normalised; the model can only say their normal form."""
    written, other = unicodedata.normalize("NFD", "un café"), unicodedata.normalize("NFD", "un thé")
    question = Question("d", 0, "0", "", "?", (other, written), written)
    # As in the tokenizers of Qwen's models.
    said = NFC().normalize_str(written)
    assert said != written
    prediction = rule.prediction(f"<answer>{said}</answer>", question)
    # Scripts compare without a normal form, so the file's spelling is submitted.
    assert prediction == ("B" if rule is AIR else written)
    for handed_in in (prediction, "B" if rule is AIR else said):
        (judged,) = judge([question], [handed_in], rule)
        assert (judged.official, judged.strict) == (True, True)
    assert strictly_right(said, question)
    assert nearest_choice(said, question.choices) == written


def test_a_question_without_an_answer_is_not_judged():
    for rule in ALL_RULES:
        with pytest.raises(ValueError, match="d:0: a question without an answer cannot be judged"):
            judge([replace(ANIMALS, answer="")], [""], rule)
