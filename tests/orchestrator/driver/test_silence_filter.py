"""Questions that are answered without audio: the requests, the removed questions, and refused outputs."""

import asyncio
from io import StringIO

import pytest

from audio_qa.errors import InputError
from audio_qa.question import Question
from orchestrator.display.progress import PlainProgress
from orchestrator.driver.silence_filter import SilenceResult, ask_silently, check_asked, check_output, check_writable
from orchestrator.evaluation.evaluate import NothingAskedError
from orchestrator.job.spec import JobSpec
from protocol.rollout import Completion, FailedQuestion, Failure, Group, StopReason

QUESTIONS = [Question("d", i, f"q{i}", f"/{i}.wav", "?", ("a dog", "a cat"), "a dog") for i in range(3)]
SPEC = JobSpec.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "rollout": {"max_tokens": 9}})


def test_every_question_is_asked_with_silence():
    asked = []

    async def generate(requests, sampling):
        asked.append((requests, sampling))
        answers = {0: ["a dog"] * 4, 1: ["a dog", "a cat", "<answer>a dog</answer>", ""]}
        return [
            Group(
                request.question,
                request.template,
                (1,),
                tuple(Completion((1,), (-0.1,), text, StopReason.STOP) for text in answers[request.question.index]),
                0,
                "w",
            )
            if request.question.index in answers
            else FailedQuestion(request.question, Failure.AUDIO, "broken", "w")
            for request in requests
        ]

    results = asyncio.run(ask_silently(generate, SPEC, QUESTIONS, samples=4, temperature=0.8))
    ((requests, sampling),) = asked
    assert all(request.silent for request in requests)
    assert len({request.seed for request in requests}) == 3
    assert (sampling.group_size, sampling.max_tokens, sampling.temperature) == (4, 9, 0.8)
    assert [(item.id, item.right, item.asked) for item in results] == [("q0", 4, 4), ("q1", 2, 4), ("q2", None, 4)]
    assert [item.known_without(0.75) for item in results] == [True, False, False]
    assert [item.known_without(0.5) for item in results] == [True, True, False]
    # The one that failed stays in the file, and the reason is shown and returned.
    shown = StringIO()
    (failed,) = check_asked(results, PlainProgress(shown))
    assert failed.as_record() == {
        "question": "d:2",
        "id": "q2",
        "control": "silence",
        "reason": "audio",
        "detail": "broken",
    }
    assert shown.getvalue() == (
        "1 of 3 questions could not be asked and stay in the file (audio 1), the first d:2: broken\n"
    )
    with pytest.raises(NothingAskedError, match=r"nothing was written: 1 of 1 questions .*the first d:2: broken"):
        check_asked(results[2:], PlainProgress(shown))


@pytest.mark.parametrize(
    ("right", "threshold", "known"), [(6, 0.75, True), (5, 0.75, False), (8, 1, True), (0, 0.01, False)]
)
def test_the_threshold_is_included(right, threshold, known):
    assert SilenceResult("q", "?", "a", right, 8).known_without(threshold) is known


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_asked(tmp_path):
    output = tmp_path / "heard.jsonl"
    check_output(SPEC, output)
    check_writable(output, QUESTIONS)
    assert list(tmp_path.iterdir()) == []
    repeated = [Question("d", 0, "q0", "/0.wav", "?", ("a dog", "a dog"), "a dog")]
    with pytest.raises(InputError, match="does not exist; create it first"):
        check_output(SPEC, tmp_path / "nowhere" / "x.jsonl")
    with pytest.raises(InputError, match="listed twice"):
        check_writable(output, repeated)
    (tmp_path / "heard.dropped.jsonl").write_text("")
    with pytest.raises(InputError, match="exists; name a new file"):
        check_output(SPEC, output)
