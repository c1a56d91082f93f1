"""Answers to held-out questions, and two controls: the same with silence, and with another question's clip."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from audio_qa.answer import extract_answer, is_correct
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from audio_qa.scoring.sampling import majority_vote
from audio_qa.scoring.score import GROUPINGS
from audio_qa.shuffled import other_clips
from orchestrator.job.sections.evaluation import AudioControl
from orchestrator.questions.source import sample_seed
from protocol.rollout import FailedQuestion, Group, RolloutRequest, Sampling

Generate = Callable[[Sequence[RolloutRequest], Sampling], Awaitable[list[Group | FailedQuestion]]]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How some questions were answered. A question whose clip could not be read counts as answered wrong."""

    accuracy: float
    """Share answered right, hearing the clip."""
    silence_accuracy: float | None
    """Share answered right with silence in the clip's place; None without that control."""
    shuffled_accuracy: float | None
    """Share answered right with another question's clip, of those that could be asked with it; None without that
    control, or where there is no other clip."""
    chance_accuracy: float
    """Expected share right when guessing among the options."""
    count: int
    failed: int
    """Questions that could not be asked."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation: in total and by group."""

    total: Accuracy
    groups: Mapping[str, Mapping[str, Accuracy]]
    """By grouping (`by_task`, `by_category`, `by_difficulty`, `by_sub_category`), then by label."""
    answers: tuple[tuple[str, ...] | None, ...] = ()
    """What was answered to each question, hearing its clip: its completions; None where it could not be asked."""

    def as_event(self) -> dict[str, object]:
        """Plain data, as events and results hold it; the figures without the answers."""
        return {
            **asdict(self.total),
            **{name: {k: asdict(v) for k, v in group.items()} for name, group in self.groups.items()},
        }


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
    """Ask every question with its clip, and once more for each control, and judge by the paper's rule.

    Args:
        samples: completions a question; of several, the majority's answer counts.
        temperature: 0 answers greedily, which several samples make no sense with.
        seed: of what is sampled, and of which clip takes another's place.
    """
    asked = [RolloutRequest(q, template, seed=sample_seed(seed, i)) for i, q in enumerate(questions)]
    parts: dict[AudioControl | None, list[RolloutRequest]] = {None: asked}
    if AudioControl.SILENCE in controls:
        parts[AudioControl.SILENCE] = [replace(request, silent=True) for request in asked]
    clips = None
    if AudioControl.SHUFFLED in controls:
        # It reads files, and the job's other tasks go on meanwhile.
        clips = await asyncio.to_thread(other_clips, questions, seed=seed)
    if clips is not None:
        parts[AudioControl.SHUFFLED] = [replace(r, other_clip=clip) for r, clip in zip(asked, clips, strict=True)]
    # All at once, so that the engines are never short of work.
    requests = [request for part in parts.values() for request in part]
    sampling = Sampling(group_size=samples, max_tokens=max_tokens, temperature=temperature)
    answers = iter(await generate(requests, sampling))
    answered = {part: [next(answers) for _ in of_part] for part, of_part in parts.items()}
    heard = answered[None]
    right = {part: [_is_right(answer) for answer in of_part] for part, of_part in answered.items()}
    failed = {part: [isinstance(answer, FailedQuestion) for answer in of_part] for part, of_part in answered.items()}

    def share(part: AudioControl, places: Sequence[int]) -> float | None:
        if part not in right:
            return None
        # A clip that is too long for another question's prompt says nothing of the model.
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
    return Evaluation(accuracy(range(len(questions))), groups, tuple(_texts(answer) for answer in heard))


def _groups(questions: Sequence[Question]) -> dict[str, dict[str, list[int]]]:
    """By grouping and label, the places of the questions. Tasks and categories are always told, if only as all."""
    groups: dict[str, dict[str, list[int]]] = {}
    for name, label in GROUPINGS.items():
        members: dict[str, list[int]] = defaultdict(list)
        always = name in ("by_task", "by_category")
        for i, question in enumerate(questions):
            members[label(question) or ("all" if always else "none")].append(i)
        groups[name] = {} if members.keys() == {"none"} else dict(members)
    return groups


def _is_right(answer: Group | FailedQuestion) -> bool:
    texts = _texts(answer)
    if texts is None:
        return False
    said = texts[0] if len(texts) == 1 else majority_vote([extract_answer(text) for text in texts])
    return is_correct(said, answer.question.answer)


def _texts(answer: Group | FailedQuestion) -> tuple[str, ...] | None:
    return tuple(completion.text for completion in answer.completions) if isinstance(answer, Group) else None
