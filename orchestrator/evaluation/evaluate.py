"""Evaluate a model on held-out questions, with two controls: silence, and another question's clip.

Invariant: each question is answered, or listed with the reason why it could not be asked; an accuracy on questions of
which none could be asked is None, never 0.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from audio_qa.answer import chance, extract_answer, means_the_same
from audio_qa.errors import EarshotError, one_line
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from audio_qa.scoring.sampling import majority_vote
from audio_qa.scoring.score import GROUPINGS
from audio_qa.shuffled import other_clips
from orchestrator.job.sections.evaluation import AudioControl
from orchestrator.job.spec import JobSpec
from orchestrator.questions.source import sample_seed
from protocol.calls import Generate
from protocol.rollout import Answer, FailedQuestion, Group, RolloutRequest, Sampling, StopReason

_LONGEST_DETAIL = 400


class NothingAskedError(EarshotError):
    """An evaluation in which every question failed: it has no accuracy."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy on some questions. A question that could not be asked counts as wrong; None if that is all of them,
    or if the questions have no answers."""

    accuracy: float | None
    """Share answered correctly with the clip."""
    silence_accuracy: float | None
    """Share answered correctly with silence instead of the clip, without questions that could be asked with the clip
    only; None without that control."""
    shuffled_accuracy: float | None
    """Share answered correctly with another question's clip, of the questions that could be asked with it; None without
    that control, or where there is no other clip."""
    chance_accuracy: float | None
    """Expected share of correct answers when guessing among the options."""
    count: int
    failed: int
    """Number of questions that could not be asked."""
    failed_reasons: Mapping[str, int]
    """Number that could not be asked, by reason."""
    failed_in_control: Mapping[str, int]
    """Number that could not be asked in a control only, by control; they do not count in its accuracy."""
    truncated_clips: int
    """Number of clips that were longer than the model hears, and were truncated."""
    length_mean: float | None
    """Mean length of a completion with the clip, in tokens; None without completions, as the next two."""
    truncated_fraction: float | None
    """Share of completions that were truncated at the longest length."""
    empty_fraction: float | None
    """Share of completions without text."""


@dataclass(frozen=True, slots=True)
class UnaskedQuestion:
    """A question that could not be asked."""

    question: Question
    control: AudioControl | None
    """Control in which it failed; None with its own clip."""
    reason: str
    detail: str

    def as_record(self) -> dict[str, object]:
        """Return it as plain data, as events and results hold it."""
        control = None if self.control is None else self.control.value
        return {
            "question": self.question.key,
            "id": self.question.id,
            "control": control,
            "reason": self.reason,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation: in total and by group."""

    total: Accuracy
    groups: Mapping[str, Mapping[str, Accuracy]]
    """By grouping (`by_task`, `by_category`, `by_difficulty`, `by_sub_category`), then by label."""
    labelled: bool
    """False if the questions have no answers: nothing is judged, and there are no controls."""
    parts: Mapping[AudioControl | None, Sequence[Answer]] = field(compare=False, repr=False)
    """The answer to each question by control, and with its clip under None."""
    answers: tuple[tuple[str, ...] | None, ...]
    """The completions of each question with its clip; None where it could not be asked."""
    other_clips: Sequence[str] | None = None
    """With the control of shuffled clips, the path of each question's other clip."""

    def as_event(self) -> dict[str, object]:
        """Return the figures as plain data, as events and results hold them, without the answers."""
        return {
            **asdict(self.total),
            **{name: {k: asdict(v) for k, v in group.items()} for name, group in self.groups.items()},
        }

    def unasked(self) -> Iterator[UnaskedQuestion]:
        """Yield the questions that could not be asked, and those that could not be asked in a control only."""
        for control, answers in self.parts.items():
            for answer, own in zip(answers, self.parts[None], strict=True):
                if isinstance(answer, FailedQuestion) and (control is None or isinstance(own, Group)):
                    yield UnaskedQuestion(answer.question, control, answer.reason.value, answer.detail)

    def truncated_clips(self) -> Iterator[tuple[Question, float]]:
        """Yield the questions whose clip was truncated, and by how many seconds."""
        for answer in self.parts[None]:
            if isinstance(answer, Group) and answer.truncated_seconds:
                yield answer.question, round(answer.truncated_seconds, 3)

    def problem(self) -> str | None:
        """Return one line about questions that could not be asked, and truncated clips; None if there are none."""
        count, lines = self.total.count, list[str]()
        by_control: dict[AudioControl | None, list[UnaskedQuestion]] = defaultdict(list)
        for failed in self.unasked():
            by_control[failed.control].append(failed)
        for control, failures in by_control.items():
            if control is None:
                counted = " and count as wrong" if self.labelled else " and have no prediction"
                lines.append(unasked_text(failures, count, "" if len(failures) == count else counted))
            else:
                lines.append(f"with the control {control}: {unasked_text(failures, count, ' and do not count there')}")
        if self.total.truncated_clips:
            lines.append(f"{self.total.truncated_clips} clips were longer than the model hears, and were truncated")
        return "; ".join(lines) or None

    def require_asked(self) -> None:
        """Raise NothingAskedError, with the reasons, if no question could be asked."""
        if self.total.failed == self.total.count:
            reasons = unasked_text(list(self.unasked()), self.total.count)
            raise NothingAskedError(f"the evaluation has no result: {reasons}")


def unasked_text(failures: Sequence[UnaskedQuestion], count: int, consequence: str = "") -> str:
    """Return in words how many of some questions could not be asked, the reasons, and the first of them."""
    reasons = Counter(failed.reason for failed in failures).most_common()
    first = failures[0]
    return one_line(
        f"{len(failures)} of {count} questions could not be asked{consequence} "
        f"({', '.join(f'{reason} {number}' for reason, number in reasons)}), the first {first.question.key}: "
        f"{one_line(first.detail, _LONGEST_DETAIL)}"
    )


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

    Questions without answers are asked with their clips only.

    Args:
        samples: completions per question; with several, the majority answer counts.
        temperature: 0 decodes greedily, which makes several samples pointless.
        seed: decides the samples, and which clip replaces which.
    """
    labelled = any(question.answer for question in questions)
    with_clip = [RolloutRequest(q, template, seed=sample_seed(seed, i)) for i, q in enumerate(questions)]
    parts: dict[AudioControl | None, list[RolloutRequest]] = {None: with_clip}
    if labelled and AudioControl.SILENCE in controls:
        parts[AudioControl.SILENCE] = [replace(request, silent=True) for request in with_clip]
    clips = None
    if labelled and AudioControl.SHUFFLED in controls:
        # In a thread: it reads files, and the job's other tasks continue.
        clips = await asyncio.to_thread(other_clips, questions, seed=seed)
    if clips is not None:
        parts[AudioControl.SHUFFLED] = [replace(r, other_clip=clip) for r, clip in zip(with_clip, clips, strict=True)]
    # All at once, so that the engines are always busy.
    requests = [request for part in parts.values() for request in part]
    sampling = Sampling(group_size=samples, max_tokens=max_tokens, temperature=temperature)
    answers = iter(await generate(requests, sampling))
    answered = {part: [next(answers) for _ in of_part] for part, of_part in parts.items()}
    judged = _Judged(questions, answered, labelled=labelled)
    groups = {
        name: {label: judged.accuracy(places) for label, places in sorted(members.items())}
        for name, members in _groups(questions).items()
    }
    total = judged.accuracy(range(len(questions)))
    return Evaluation(total, groups, labelled, answered, tuple(_texts(answer) for answer in answered[None]), clips)


class _Judged:
    """The answers to questions, each found right or wrong."""

    def __init__(
        self,
        questions: Sequence[Question],
        answered: Mapping[AudioControl | None, Sequence[Answer]],
        *,
        labelled: bool,
    ) -> None:
        self._questions, self._answered, self._labelled = questions, answered, labelled
        self._right = {part: [labelled and _is_right(answer) for answer in of] for part, of in answered.items()}
        self._failed = {part: [isinstance(a, FailedQuestion) for a in of] for part, of in answered.items()}

    def accuracy(self, places: Sequence[int]) -> Accuracy:
        """Return the accuracy on the questions at some places."""
        groups = [group for i in places if isinstance(group := self._answered[None][i], Group)]
        completions = [completion for group in groups for completion in group.completions]
        failures = [failed for i in places if isinstance(failed := self._answered[None][i], FailedQuestion)]
        by_chance = sum(chance(self._questions[i]) for i in places) / len(places) if self._labelled else None
        return Accuracy(
            accuracy=self._share(None, places),
            silence_accuracy=self._share(AudioControl.SILENCE, places),
            shuffled_accuracy=self._share(AudioControl.SHUFFLED, places),
            chance_accuracy=by_chance,
            count=len(places),
            failed=len(failures),
            failed_reasons=dict(sorted(Counter(failed.reason.value for failed in failures).items())),
            failed_in_control={
                control.value: count
                for control in AudioControl
                if control in self._failed and (count := sum(self._failed_only_in(control, i) for i in places))
            },
            truncated_clips=sum(group.truncated_seconds > 0 for group in groups),
            length_mean=_mean([len(completion.token_ids) for completion in completions]),
            truncated_fraction=_mean([c.stop_reason is StopReason.LENGTH for c in completions]),
            empty_fraction=_mean([not completion.text.strip() for completion in completions]),
        )

    def _share(self, part: AudioControl | None, places: Sequence[int]) -> float | None:
        """Return the share of right answers; None if no question of a part was asked, or none has an answer."""
        if not self._labelled or part not in self._right or all(self._failed[part][i] for i in places):
            return None
        return _mean([self._right[part][i] for i in places if self._counts(part, i)])

    def _counts(self, part: AudioControl | None, i: int) -> bool:
        """Return whether a question counts: one that failed is wrong, unless the control is the cause."""
        if part is AudioControl.SHUFFLED:
            # A clip that is too long for another question's prompt does not say anything about the model.
            return not self._failed[part][i]
        return part is None or not self._failed_only_in(part, i)

    def _failed_only_in(self, control: AudioControl, i: int) -> bool:
        return self._failed[control][i] and not self._failed[None][i]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


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
    question = answer.question
    said = majority_vote([extract_answer(text) for text in texts], question.choices)
    return means_the_same(said, question.answer, question.choices)


def _texts(answer: Answer) -> tuple[str, ...] | None:
    return tuple(completion.text for completion in answer.completions) if isinstance(answer, Group) else None
