"""Solve rates read from the files of earlier runs and evaluations."""

import json
from dataclasses import asdict

import pytest

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.preflight.prepare import by_solve_rate
from orchestrator.questions.solve_rates import SolveRate, measured_rates
from orchestrator.run.samples import group_samples
from protocol.reward import Score
from protocol.rollout import Completion, Group, StopReason

QUESTIONS = [Question("d", i, f"q{i}", f"{i}.wav", "What?", ("a dog", "a cat"), "a dog") for i in range(3)]


def completion(text: str) -> Completion:
    return Completion((1,), (-0.1,), text, StopReason.STOP)


def samples(question: Question, *texts: str) -> list[str]:
    group = Group(question, PromptTemplate.ANSWER, (1,), tuple(map(completion, texts)), 0, "w")
    found = group_samples(group, [Score({}, 0.0)] * len(texts), [None] * len(texts), draw=0, step=1, learner_version=0)
    return [json.dumps(asdict(sample)) for sample in found]


def write(path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def test_from_the_samples_of_a_run(tmp_path):
    right, wrong = "<answer>a dog</answer>", "<answer>a cat</answer>"
    path = write(
        tmp_path / "samples.jsonl",
        *samples(QUESTIONS[0], right, wrong, right, right),
        *samples(QUESTIONS[2], wrong, wrong),
        *samples(QUESTIONS[0], right, wrong, "a dog", right),
        *samples(Question("other", 7, "x", "x.wav", "?", ("a", "b"), "a"), right),
    )
    assert measured_rates(path, QUESTIONS) == {"d:0": SolveRate(6, 8), "d:2": SolveRate(0, 2)}


def test_from_an_evaluation(tmp_path):
    answers = [
        {"id": "q1", "completions": ["<answer>a dog</answer>", "a cat"]},
        {"id": "q2", "completions": None},
        {"id": "elsewhere", "completions": ["a dog"]},
    ]
    path = write(tmp_path / "measured.json", json.dumps({"accuracy": 0.5, "answers": answers}))
    assert measured_rates(path, QUESTIONS) == {"d:1": SolveRate(1, 2)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "is not a file"),
        ("", "has no answers to measure by"),
        ("not JSON", "has no answers to measure by"),
        ("[]", "has no answers to measure by"),
        ('{"answers": [{"id": "q1"}]}', "has no answers to measure by"),
        ('{"answers": [{"id": "elsewhere", "completions": ["a"]}]}', "has none of these training questions"),
    ],
)
def test_an_unusable_file_is_a_one_line_error(tmp_path, text, problem):
    path = tmp_path / "measured.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SpecError, match=problem) as caught:
        measured_rates(str(path), QUESTIONS)
    assert "data.curriculum.measured" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_samples_of_other_questions_under_the_same_keys_are_refused(tmp_path):
    other = Question("d", 0, "q0", "0.wav", "Which?", ("a dog", "a cat"), "a dog")
    path = write(tmp_path / "samples.jsonl", *samples(other, "a dog"))
    with pytest.raises(SpecError, match="has other questions: its d:0 is 'Which\\?'"):
        measured_rates(path, QUESTIONS)


def test_an_evaluation_of_other_questions_with_the_same_ids_is_refused(tmp_path):
    mine = {"id": "q1", "question": QUESTIONS[1].text, "answer": QUESTIONS[1].answer, "completions": ["a cat"]}
    path = write(tmp_path / "measured.json", json.dumps({"answers": [mine]}))
    assert set(measured_rates(path, QUESTIONS)) == {"d:1"}
    other = mine | {"question": "Which?"}
    path = write(tmp_path / "measured.json", json.dumps({"answers": [other]}))
    with pytest.raises(SpecError, match="has other questions: its 'q1' is 'Which\\?'"):
        measured_rates(path, QUESTIONS)


def test_bounds_that_exclude_all_questions_are_refused(tmp_path):
    path = write(tmp_path / "samples.jsonl", *(line for q in QUESTIONS for line in samples(q, "a dog", "a dog")))
    data = {"train": "t", "curriculum": {"measured": path, "max_solve_rate": 0.9}}
    job = JobSpec.model_validate({"model": {"path": "m"}, "data": data})
    with pytest.raises(SpecError, match="all 3 training questions"):
        by_solve_rate(job, QUESTIONS)
