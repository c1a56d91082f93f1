"""The report of a run: one HTML page that needs no network and no script, drawn from the run directory alone.

Whatever a model or a dataset wrote is escaped, and a content policy in the page forbids scripts and requests besides.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from audio_qa.scoring.intervals import interval
from orchestrator.display.notation import duration, html_text, number, percent
from orchestrator.display.page import PAGE, STYLE
from orchestrator.display.plot import Bar, Series, category_plot, line_plot, stacked_plot
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import replace_file

_GROUPS = 3
"""Groups of completions shown from the beginning of the run, and from its end."""
_COMPLETIONS = 8
_LONGEST_TEXT = 3000
_EVENTS = 300

Record = Mapping[str, Any]


def write_report(run: RunDirectory) -> Path:
    """Write the run's `report.html` as its files are now, and return its path."""
    replace_file(run.report_file, render_report(run))
    return run.report_file


def render_report(run: RunDirectory) -> str:
    """The page as text; also for a run that has no step yet, or lacks some metrics."""
    metrics, events, evaluations = run.metrics(), run.events(), run.evaluations()
    job_text = run.job_file.read_text(encoding="utf-8")
    name = _job_name(job_text) or run.path.absolute().name
    state = _state(run.summary(), events)
    early, late = _early_and_late(run.samples())
    torn = "".join(f"<p class=note>{html_text(file)} ends in a line that was cut off.</p>" for file in run.torn())
    return PAGE.format(
        title=html_text(f"{name} – Earshot"),
        name=html_text(name),
        state=html_text(state),
        style=STYLE,
        torn=torn,
        numbers=_numbers(run.summary() or {}, metrics, evaluations),
        plots="".join(_plots(metrics, evaluations)),
        categories=_categories(evaluations),
        samples=_samples("At the beginning", early) + _samples("At the end", late),
        job=html_text(job_text),
        events=_event_rows(events),
        hidden=f"The last {_EVENTS} of {len(events)}." if len(events) > _EVENTS else "",
    )


def _job_name(job_text: str) -> str:
    try:
        job = yaml.safe_load(job_text)
    except yaml.YAMLError:
        return ""  # The report shows the file as it is; only its name cannot be told.
    return str(job.get("name", "")) if isinstance(job, dict) else ""


def _state(summary: Record | None, events: Sequence[Record]) -> str:
    states = [event.get("state") for event in events if event.get("kind") == "state"]
    return str((summary or {}).get("state") or (states[-1] if states else "") or "unknown")


def _numbers(summary: Record, metrics: Sequence[Record], evaluations: Sequence[tuple[int, Record]]) -> str:
    """The headline numbers: from the summary, and while there is none from the evaluations so far."""
    first_step, first = evaluations[0] if evaluations else (0, {})
    last_step, last = evaluations[-1] if evaluations else (0, {})

    def share(key: str, result: Record, name: str) -> float | None:
        value = _value(summary, key)
        return _value(result, name) if value is None else value

    # What was measured at step 0 is before learning, and what was measured later is after some of it.
    baseline = share("baseline_accuracy", first if first_step == 0 else {}, "accuracy")
    final = share("final_accuracy", last if last_step > 0 else {}, "accuracy")
    seconds, base_seconds = _value(summary, "seconds"), _value(summary, "base_seconds")
    steps = _value(summary, "steps")
    if steps is None and metrics:
        steps = _value(metrics[-1], "step")
    shuffled = share("shuffled_accuracy", last, "shuffled_accuracy")
    count = _value(last, "count")
    spread = ""
    if final is not None and count:
        low, high = interval(min(1.0, max(0.0, final)), int(count))
        spread = f"of {count:.0f} questions; 95 % interval {percent(low)} to {percent(high)}"
    tiles = [
        ("accuracy before → after", f"{_or_dash(baseline, percent)} → {_or_dash(final, percent)}", spread)
        if steps != 0
        else ("accuracy", _or_dash(baseline, percent), spread),
        ("with silence", _or_dash(share("silence_accuracy", last, "silence_accuracy"), percent), "the control"),
        *([] if shuffled is None else [("with other clips", percent(shuffled), "another question's clip")]),
        ("by chance", _or_dash(share("chance_accuracy", last, "chance_accuracy"), percent), "guessing"),
        ("learner steps", _or_dash(steps, lambda value: f"{value:.0f}"), ""),
        ("time", _or_dash(seconds, duration), f"base model {duration(base_seconds)}" if base_seconds else ""),
    ]
    return "".join(
        f"<div class=tile><dt>{html_text(title)}</dt><dd>{html_text(value)}</dd><small>{html_text(note)}</small></div>"
        for title, value, note in tiles
    )


def _plots(metrics: Sequence[Record], evaluations: Sequence[tuple[int, Record]]) -> Iterator[str]:
    def lines(**names: str) -> list[Series]:
        named = [(label.replace("_", " "), name) for label, name in names.items()]
        return [Series(label, [(m["step"], _value(m, name)) for m in metrics]) for label, name in named]

    def evaluated(label: str, key: str, dashed: bool = False) -> Series:
        return Series(label, [(step, _value(result, key)) for step, result in evaluations], dashed)

    shuffled = any(_value(result, "shuffled_accuracy") is not None for _, result in evaluations)
    yield line_plot("Reward", lines(mean="reward/mean", accuracy="reward/accuracy", format="reward/format"))
    yield line_plot(
        "Accuracy on held-out questions",
        [
            evaluated("audio", "accuracy"),
            evaluated("silence", "silence_accuracy"),
            evaluated("chance", "chance_accuracy", dashed=True),
            *([evaluated("other clips", "shuffled_accuracy")] if shuffled else []),
        ],
        lambda value: f"{value:.0%}" if value == round(value, 2) else percent(value),
        from_zero=True,
    )
    yield line_plot(
        "KL to the reference model",
        lines(KL="kl/ref"),
        unit="nats per token",
        if_none="There is no reference where learner.beta is 0.",
    )
    yield line_plot("Entropy", lines(entropy="entropy"), unit="nats per token")
    yield line_plot("Loss", lines(policy="loss/policy", KL="loss/kl"))
    yield line_plot("Completion length", lines(mean_length="completion/length_mean"), unit="tokens")
    yield line_plot(
        "Completions cut at the length limit, and ratios clipped",
        lines(truncated="completion/truncated_fraction", clipped="ratio/clipped_fraction"),
        lambda value: f"{100 * value:.3g}%",
        from_zero=True,
    )
    yield stacked_plot(
        "Time per step by phase",
        lines(generate="time/generate", reward="time/reward", learn="time/learn", sync="time/sync"),
        unit="seconds",
    )
    yield line_plot(
        "Throughput",
        lines(generated="tokens/generated_per_second", trained="tokens/trained_per_second"),
        unit="tokens per second",
    )
    yield stacked_plot(
        "What became of the questions",
        lines(
            trained="groups/trained", zero_variance="groups/zero_variance", stale="groups/stale", failed="groups/failed"
        ),
        unit="groups",
    )
    yield line_plot("Rollout workers alive", lines(workers="workers/alive"), from_zero=True)
    yield line_plot("Staleness", lines(mean="staleness/mean", highest="staleness/max"), unit="weight versions")


def _categories(evaluations: Sequence[tuple[int, Record]]) -> str:
    if not evaluations:
        return "<p class=none>No evaluation yet.</p>"
    step, result = evaluations[-1]
    plots = [f"<p class=note>At step {step}. Whiskers are 95 % intervals.</p><div class=grid>"]
    for title, key, always in (
        ("By category", "by_category", True),
        ("By task", "by_task", True),
        ("By difficulty", "by_difficulty", False),
        ("By sub-category", "by_sub_category", False),
    ):
        parts = result.get(key) or {}
        if not parts and not always:
            continue
        bars = [
            Bar(
                name,
                _share(part, "accuracy"),
                _share(part, "silence_accuracy"),
                _share(part, "chance_accuracy"),
                int(_value(part, "count") or 0),
            )
            for name, part in sorted(parts.items())
        ]
        plots.append(category_plot(title, bars))
    return "".join(plots) + "</div>"


def _early_and_late(samples: Iterable[Record]) -> tuple[list[list[Record]], list[list[Record]]]:
    """The first groups of completions in the file and the last ones, none in both."""
    early: list[list[Record]] = []
    late: deque[list[Record]] = deque(maxlen=_GROUPS)
    for _, lines in groupby(samples, key=lambda sample: (sample.get("step"), sample.get("draw"))):
        (early if len(early) < _GROUPS else late).append(list(lines))
    return early, list(late)


def _samples(title: str, groups: Sequence[Sequence[Record]]) -> str:
    if not groups:
        return f"<h3>{title}</h3><p class=none>No completions.</p>"
    return f"<h3>{title}</h3>" + "".join(_group(group) for group in groups)


def _group(group: Sequence[Record]) -> str:
    first = group[0]
    choices = "".join(
        f"<li class=right>{html_text(choice)} ✓</li>"
        if choice == first.get("answer")
        else f"<li>{html_text(choice)}</li>"
        for choice in first.get("choices") or ()
    )
    rows = "".join(
        f"<tr><td class=said dir=auto>{html_text(_cut(str(sample.get('text', ''))))}</td>"
        f"<td>{_or_dash(_value(sample, 'reward'), number)}</td>"
        f"<td>{_or_dash(_value(sample, 'advantage'), _signed)}</td>"
        f"<td>{html_text(_rewards(sample))}</td></tr>"
        for sample in group[:_COMPLETIONS]
    )
    more = f"<p class=note>{len(group) - _COMPLETIONS} more in samples.jsonl.</p>" if len(group) > _COMPLETIONS else ""
    return (
        f"<article><p class=note>Step {html_text(first.get('step'))} · {html_text(first.get('question_key'))} · "
        f"{html_text(first.get('audio'))}</p><p dir=auto><strong>{html_text(first.get('question'))}</strong></p>"
        f"<ul class=choices>{choices}</ul><div class=scroll><table><thead><tr><th>completion<th>reward<th>advantage"
        f"<th>by function</tr></thead><tbody>{rows}</tbody></table></div>{more}</article>"
    )


def _rewards(sample: Record) -> str:
    if sample.get("error"):
        return f"not scored: {sample['error']}"
    rewards = sample.get("rewards") or {}
    cut = ["cut at the length limit"] if sample.get("stop_reason") == "length" else []
    return ", ".join([f"{name} {_or_dash(_value(rewards, name), number)}" for name in rewards] + cut)


def _event_rows(events: Sequence[Record]) -> str:
    rows = []
    for event in events[-_EVENTS:]:
        detail = {key: value for key, value in event.items() if key not in ("time", "kind")}
        if event.get("kind") == "evaluation" and isinstance(detail.get("result"), dict):
            detail |= {key: value for key, value in detail.pop("result").items() if not isinstance(value, dict)}
        words = ", ".join(f"{key}: {_word(value)}" for key, value in detail.items())
        rows.append(
            f"<tr><td class=when>{html_text(event.get('time'))}</td><td>{html_text(event.get('kind'))}</td>"
            f"<td>{html_text(_cut(words))}</td></tr>"
        )
    return "".join(rows) or "<tr><td colspan=3 class=none>No events.</td></tr>"


def _word(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _value(record: Record, name: str) -> float | None:
    """The number of that name; None if it is missing, is no number, or is too large to be meant."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e100 else None


def _share(record: Record, name: str) -> float | None:
    value = _value(record, name)
    return None if value is None else min(1.0, max(0.0, value))


def _or_dash(value: float | None, form: Callable[[float], str]) -> str:
    return "–" if value is None else form(value)


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}… ({len(text)} characters)"
