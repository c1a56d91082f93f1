"""The report of a run: one HTML page without network access or scripts, made from the run directory alone.

The template escapes whatever a model or a dataset wrote, and the page's content policy forbids scripts and requests.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from audio_qa.scoring.intervals import interval
from orchestrator.display.markup import render_template
from orchestrator.display.notation import duration, number, percent
from orchestrator.display.record import Record, number_in
from orchestrator.display.report_plots import category_plots, learning_plots
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.history import history_of
from orchestrator.run.records import replace_file

_GROUPS = 3
"""Groups of completions shown from the beginning of the run, and from its end."""
_COMPLETIONS = 8
_LONGEST_TEXT = 3000
_EVENTS = 300


@dataclass(frozen=True, slots=True)
class _Tile:
    """A headline number."""

    title: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class _CompletionRow:
    """One completion, as it is shown."""

    text: str
    reward: str
    advantage: str
    by_function: str


@dataclass(frozen=True, slots=True)
class _SampleGroup:
    """The completions of one question."""

    step: Any
    question_key: Any
    audio: Any
    question: Any
    choices: Sequence[Any]
    answer: Any
    rows: Sequence[_CompletionRow]
    not_shown: int


@dataclass(frozen=True, slots=True)
class _EventRow:
    """One event, as it is shown."""

    time: Any
    kind: Any
    detail: str


def write_report(run: RunDirectory) -> Path:
    """Write the run's `report.html` from its current files, and return its path."""
    replace_file(run.report_file, render_report(run))
    return run.report_file


def render_report(run: RunDirectory) -> str:
    """Return the page as text; also for a run that has no step yet, or lacks some metrics."""
    metrics, events, evaluations = run.metrics(), run.events(), run.evaluations()
    job_text = run.job_file.read_text(encoding="utf-8")
    early, late = _early_and_late(run.samples())
    evaluated_step, evaluation = evaluations[-1] if evaluations else (None, {})
    return render_template(
        "report.html.j2",
        title=_job_name(job_text) or run.path.absolute().name,
        state=_state(run.summary(), events),
        torn=run.torn(),
        tiles=list(_tiles(run.summary() or {}, metrics, evaluations)),
        learning_plots=learning_plots(metrics, evaluations),
        evaluated_step=evaluated_step,
        category_plots=category_plots(evaluation),
        samples=[("At the beginning", early), ("At the end", late)],
        job=job_text,
        events=[_event_row(event) for event in events[-_EVENTS:]],
        event_count=len(events),
    )


def _job_name(job_text: str) -> str:
    try:
        job = yaml.safe_load(job_text)
    except yaml.YAMLError:
        return ""  # The report shows the file as it is, under the name of the run directory.
    return str(job.get("name", "")) if isinstance(job, dict) else ""


def _state(summary: Record | None, events: Sequence[Record]) -> str:
    return str((summary or {}).get("state") or history_of(events).state or "unknown")


def _tiles(summary: Record, metrics: Sequence[Record], evaluations: Sequence[tuple[int, Record]]) -> Iterator[_Tile]:
    """Yield the headline numbers: from the summary, or from the evaluations so far while there is no summary."""
    first_step, first = evaluations[0] if evaluations else (0, {})
    last_step, last = evaluations[-1] if evaluations else (0, {})

    def share(key: str, result: Record, name: str) -> float | None:
        value = number_in(summary, key)
        return number_in(result, name) if value is None else value

    # An evaluation at step 0 is before learning; a later one is after some learning.
    baseline = share("baseline_accuracy", first if first_step == 0 else {}, "accuracy")
    final = share("final_accuracy", last if last_step > 0 else {}, "accuracy")
    seconds, base_seconds = number_in(summary, "seconds"), number_in(summary, "base_seconds")
    steps = number_in(summary, "steps")
    if steps is None and metrics:
        steps = number_in(metrics[-1], "step")
    shuffled = share("shuffled_accuracy", last, "shuffled_accuracy")
    count = number_in(last, "count")
    spread = ""
    if final is not None and count:
        low, high = interval(min(1.0, max(0.0, final)), int(count))
        spread = f"of {count:.0f} questions; 95 % interval {percent(low)} to {percent(high)}"
    if "chance_accuracy" in last and last["chance_accuracy"] is None:
        spread = "not reported: the questions have no answers"
    if steps == 0:
        yield _Tile("accuracy", _or_dash(baseline, percent), spread)
    else:
        yield _Tile("accuracy before → after", f"{_or_dash(baseline, percent)} → {_or_dash(final, percent)}", spread)
    yield _Tile("with silence", _or_dash(share("silence_accuracy", last, "silence_accuracy"), percent), "the control")
    if shuffled is not None:
        yield _Tile("with other clips", percent(shuffled), "another question's clip")
    yield _Tile("by chance", _or_dash(share("chance_accuracy", last, "chance_accuracy"), percent), "guessing")
    failed = number_in(last, "failed")
    if failed:
        yield _Tile(
            "questions that failed", f"{failed:.0f} of {_or_dash(count, lambda n: f'{n:.0f}')}", "why: see the events"
        )
    yield _Tile("learner steps", _or_dash(steps, lambda value: f"{value:.0f}"))
    base = f"base model {duration(base_seconds)}" if base_seconds else ""
    yield _Tile("time", _or_dash(seconds, duration), base)


def _early_and_late(samples: Iterable[Record]) -> tuple[list[_SampleGroup], list[_SampleGroup]]:
    """Return the first groups of completions in the file and the last ones; no group is in both."""
    early: list[list[Record]] = []
    late: deque[list[Record]] = deque(maxlen=_GROUPS)
    for _, lines in groupby(samples, key=lambda sample: (sample.get("step"), sample.get("draw"))):
        (early if len(early) < _GROUPS else late).append(list(lines))
    return [_sample_group(group) for group in early], [_sample_group(group) for group in late]


def _sample_group(group: Sequence[Record]) -> _SampleGroup:
    first = group[0]
    return _SampleGroup(
        step=first.get("step"),
        question_key=first.get("question_key"),
        audio=first.get("audio"),
        question=first.get("question"),
        choices=first.get("choices") or (),
        answer=first.get("answer"),
        rows=[_completion_row(sample) for sample in group[:_COMPLETIONS]],
        not_shown=max(0, len(group) - _COMPLETIONS),
    )


def _completion_row(sample: Record) -> _CompletionRow:
    return _CompletionRow(
        text=_truncated(str(sample.get("text", ""))),
        reward=_or_dash(number_in(sample, "reward"), number),
        advantage=_or_dash(number_in(sample, "advantage"), _signed),
        by_function=_rewards(sample),
    )


def _rewards(sample: Record) -> str:
    if sample.get("error"):
        return f"not scored: {sample['error']}"
    rewards = sample.get("rewards") or {}
    truncated = ["truncated at the length limit"] if sample.get("stop_reason") == "length" else []
    return ", ".join([f"{name} {_or_dash(number_in(rewards, name), number)}" for name in rewards] + truncated)


def _event_row(event: Record) -> _EventRow:
    detail = {key: value for key, value in event.items() if key not in ("time", "kind")}
    if event.get("kind") == EventKind.EVALUATION and isinstance(detail.get("result"), dict):
        detail |= {key: value for key, value in detail.pop("result").items() if not isinstance(value, dict)}
    words = ", ".join(f"{key}: {_detail_text(value)}" for key, value in detail.items())
    return _EventRow(event.get("time"), event.get("kind"), _truncated(words))


def _detail_text(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _or_dash(value: float | None, form: Callable[[float], str]) -> str:
    return "–" if value is None else form(value)


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _truncated(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}… ({len(text)} characters)"
