"""Evaluate a model on held-out questions, with two controls: silence, and another question's clip."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from audio_qa.answer import extract_answer, is_correct
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from audio_qa.scoring.sampling import majority_vote
from audio_qa.scoring.score import GROUPINGS
from audio_qa.shuffled import other_clips
from orchestrator.job.sections.evaluation import AudioControl
from orchestrator.job.spec import JobSpec
from orchestrator.questions.source import sample_seed
from protocol.calls import Generate
from protocol.rollout import Answer, FailedQuestion, Group, RolloutRequest, Sampling


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy on some questions. A question whose clip could not be read counts as wrong."""

    accuracy: float
    """Share answered correctly with the clip."""
    silence_accuracy: float | None
    """Share answered correctly with silence instead of the clip; None without that control."""
    shuffled_accuracy: float | None
    """Share answered correctly with another question's clip, of the questions that could be asked with it; None without
    that control, or where there is no other clip."""
    chance_accuracy: float
    """Expected share of correct answers when guessing among the options."""
    count: int
    failed: int
    """Number of questions that could not be asked."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation: in total and by group."""

    total: Accuracy
    groups: Mapping[str, Mapping[str, Accuracy]]
    """By grouping (`by_task`, `by_category`, `by_difficulty`, `by_sub_category`), then by label."""
    answers: tuple[tuple[str, ...] | None, ...] = ()
    """The completions of each question with its clip; None where it could not be asked."""

    def as_event(self) -> dict[str, object]:
        """Return the figures as plain data, as events and results hold them, without the answers."""
        return {
            **asdict(self.total),
            **{name: {k: asdict(v) for k, v in group.items()} for name, group in self.groups.items()},
        }


async def evaluate_held_out(generate: Generate, spec: JobSpec, questions: Sequence[Question]) -> Evaluation:
    """Ask a job's held-out questions as its `evaluation` section specifies."""
    section = spec.evaluation
    return await evaluate(
        generate,
        questions,
        spec.data.prompt,
        spec.rollout.max_tokens,
        samples=section.samples,
        temperature=section.temperature,
        controls=section.controls,
        seed=spec.seed,
    )


async def evaluate(
    generate: Generate,
    questions: Sequence[Question],
    template: PromptTemplate,
    max_tokens: int,
    *,
    samples: int = 1,
    temperature: float = 0.0,
    controls: Sequence[AudioControl] = (AudioControl.SILENCE,),
    seed: int = 0,
) -> Evaluation:
    """Ask every question with its clip, and once more for each control, and judge answers by the paper's rule.

    Args:
        samples: completions per question; with several, the majority answer counts.
        temperature: 0 decodes greedily, which makes several samples pointless.
        seed: decides the samples, and which clip replaces which.
    """
    with_clip = [RolloutRequest(q, template, seed=sample_seed(seed, i)) for i, q in enumerate(questions)]
    parts: dict[AudioControl | None, list[RolloutRequest]] = {None: with_clip}
    if AudioControl.SILENCE in controls:
        parts[AudioControl.SILENCE] = [replace(request, silent=True) for request in with_clip]
    clips = None
    if AudioControl.SHUFFLED in controls:
        # In a thread: it reads files, and the job's other tasks continue.
        clips = await asyncio.to_thread(other_clips, questions, seed=seed)
    if clips is not None:
        parts[AudioControl.SHUFFLED] = [replace(r, other_clip=clip) for r, clip in zip(with_clip, clips, strict=True)]
    # All at once, so that the engines are always busy.
    requests = [request for part in parts.values() for request in part]
    sampling = Sampling(group_size=samples, max_tokens=max_tokens, temperature=temperature)
    answers = iter(await generate(requests, sampling))
    answered = {part: [next(answers) for _ in of_part] for part, of_part in parts.items()}
    right = {part: [_is_right(answer) for answer in of_part] for part, of_part in answered.items()}
    failed = {part: [isinstance(answer, FailedQuestion) for answer in of_part] for part, of_part in answered.items()}

    def share(part: AudioControl, places: Sequence[int]) -> float | None:
        if part not in right:
            return None
        # A clip that is too long for another question's prompt does not say anything about the model.
        counted = places if part is AudioControl.SILENCE else [i for i in places if not failed[part][i]]
        return sum(right[part][i] for i in counted) / len(counted) if counted else None

    def accuracy(places: Sequence[int]) -> Accuracy:
        n = len(places)
        return Accuracy(
            accuracy=sum(right[None][i] for i in places) / n,
            silence_accuracy=share(AudioControl.SILENCE, places),
            shuffled_accuracy=share(AudioControl.SHUFFLED, places),
            chance_accuracy=sum(questions[i].chance for i in places) / n,
            count=n,
            failed=sum(failed[None][i] for i in places),
        )

    groups = {
        name: {label: accuracy(places) for label, places in sorted(members.items())}
        for name, members in _groups(questions).items()
    }
    return Evaluation(accuracy(range(len(questions))), groups, tuple(_texts(answer) for answer in answered[None]))


def _groups(questions: Sequence[Question]) -> dict[str, dict[str, list[int]]]:
    """Return question indices by grouping and label. Tasks and categories always exist, at least as `all`."""
    groups: dict[str, dict[str, list[int]]] = {}
    for name, label in GROUPINGS.items():
        members: dict[str, list[int]] = defaultdict(list)
        always = name in ("by_task", "by_category")
        for i, question in enumerate(questions):
            members[label(question) or ("all" if always else "none")].append(i)
        groups[name] = {} if members.keys() == {"none"} else dict(members)
    return groups


def _is_right(answer: Answer) -> bool:
    texts = _texts(answer)
    if texts is None:
        return False
    text = texts[0] if len(texts) == 1 else majority_vote([extract_answer(one) for one in texts])
    return is_correct(text, answer.question.answer)


def _texts(answer: Answer) -> tuple[str, ...] | None:
    return tuple(completion.text for completion in answer.completions) if isinstance(answer, Group) else None
