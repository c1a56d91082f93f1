"""Every completion of an evaluation, as the lines of `evaluated.jsonl`."""

from collections.abc import Iterator

from audio_qa.answer import is_correct
from orchestrator.evaluation.evaluate import Evaluation
from orchestrator.job.sections.evaluation import AudioControl
from orchestrator.run.samples import EvaluatedSample
from protocol.rollout import Group


def evaluated_samples(result: Evaluation, step: int) -> Iterator[EvaluatedSample]:
    """Yield the completions of each question with its own clip, then those of each control."""
    for control, answers in result.parts.items():
        for place, group in enumerate(answers):
            if isinstance(group, Group):
                other = result.other_clips[place] if control is AudioControl.SHUFFLED and result.other_clips else None
                yield from _samples(group, control, other or group.question.audio, step)


def _samples(group: Group, control: AudioControl | None, audio: str, step: int) -> Iterator[EvaluatedSample]:
    question = group.question
    for completion in group.completions:
        right = is_correct(completion.text, question.answer, question.choices) if question.answer else None
        yield EvaluatedSample(
            step=step,
            question_key=question.key,
            control=None if control is None else control.value,
            question=question.text,
            choices=question.choices,
            answer=question.answer,
            audio=audio,
            text=completion.text,
            right=right,
            tokens=len(completion.token_ids),
            stop_reason=completion.stop_reason.value,
            weight_version=group.weight_version,
            worker=group.worker,
        )
