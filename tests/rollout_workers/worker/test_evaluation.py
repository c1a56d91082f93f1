"""An evaluation on real engines: several samples per question, majority vote, pass@k, intervals, both controls."""

from dataclasses import replace

import pytest

from audio_qa.answer import extract_answer, is_correct
from audio_qa.formats.question_set import FileOrigin, QuestionSet
from audio_qa.prompt import PromptTemplate
from audio_qa.scoring.sampling import majority_vote
from orchestrator.evaluation.evaluate import evaluate
from orchestrator.evaluation.scores import scored
from orchestrator.job.sections.evaluation import AudioControl

SAMPLES = 4


@pytest.fixture
def questions(pool, run, requests):
    """Questions whose correct answer is one that the model with random weights may give."""

    async def generate(asked, sampling):
        return await pool.generate(asked, sampling)

    told = [replace(r.question, difficulty="easy" if r.question.index < 5 else "hard") for r in requests]
    first = run(evaluate(generate, told, PromptTemplate.ANSWER, 1, samples=16, temperature=0.5, controls=(), seed=9))
    said = [majority_vote([extract_answer(text) for text in texts or ()]) for texts in first.answers]
    return [
        replace(question, choices=(answer or "one", "other"), answer=answer or "one")
        for question, answer in zip(told, said, strict=True)
    ]


def test_several_samples_of_real_engines_are_voted_on_and_counted(pool, run, questions):
    asked = []

    async def generate(requests, sampling):
        asked.append((len(requests), sampling))
        return await pool.generate(requests, sampling)

    def ask(seed):
        sampled = {"samples": SAMPLES, "temperature": 1.0, "controls": tuple(AudioControl), "seed": seed}
        return run(evaluate(generate, questions, PromptTemplate.ANSWER, 1, **sampled))

    result = ask(seed=1)
    ((count, sampling),) = asked
    assert (count, sampling.group_size, sampling.temperature) == (3 * len(questions), SAMPLES, 1.0)
    assert all(len(texts) == SAMPLES for texts in result.answers)
    assert len({tuple(texts) for texts in result.answers}) > 1
    assert ask(seed=1) == result
    assert ask(seed=2).answers != result.answers

    # The vote and pass@k, computed by hand.
    votes = [majority_vote([extract_answer(text) for text in texts]) for texts in result.answers]
    right = [is_correct(vote, q.answer) for vote, q in zip(votes, questions, strict=True)]
    assert result.total.accuracy == sum(right) / len(right)
    assert 0 <= result.total.silence_accuracy <= 1
    assert 0 <= result.total.shuffled_accuracy <= 1
    assert {name: part.count for name, part in result.groups["by_difficulty"].items()} == {"easy": 5, "hard": 5}
    found = QuestionSet(FileOrigin("d", "earshot", "", ""), tuple(questions), ({},) * len(questions), (), {})
    told = scored(found, result.answers, seed=0)
    assert [answer["prediction"] for answer in told["answers"]] == votes
    correct = [
        [is_correct(text, q.answer) for text in texts] for texts, q in zip(result.answers, questions, strict=True)
    ]
    assert set(told["pass_at"]) == {"1", "2", "4"}
    assert told["pass_at"]["1"] == pytest.approx(sum(map(sum, correct)) / (SAMPLES * len(questions)))
    assert told["pass_at"]["4"] == sum(map(any, correct)) / len(questions)
    assert 0 < told["pass_at"]["1"] < told["pass_at"]["2"] < told["pass_at"]["4"]
    for k, value in told["pass_at"].items():
        interval = told["pass_at_interval"][k]
        assert interval["low"] <= value <= interval["high"]
        assert interval["low"] < interval["high"]
    total = told["scores"]["total"]
    assert total["official_interval"]["low"] <= total["official"] <= total["official_interval"]["high"]
