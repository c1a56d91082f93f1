import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_qa.scoring.intervals import interval
from orchestrator.display.notation import number, ticks
from orchestrator.display.plot import Bar, Series, category_plot, line_plot, stacked_plot
from orchestrator.display.report import render_report, write_report
from orchestrator.run.directory import RunDirectory
from orchestrator.run.metrics import METRIC_NAMES
from orchestrator.run.samples import Sample

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = "</td></table><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>'\" &amp; \x1b\u202e"


class Page(HTMLParser):
    """The elements and the text of a page; it fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(str(text))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def sample(step: int, draw: int, text: str, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "question": "What is heard?",
        "choices": ("a dog", "a cat"),
        "answer": "a dog",
        "audio": "clips/1.wav",
        "rewards": {"accuracy": 1.0},
        "reward": 1.0,
        "advantage": 0.5,
        "error": None,
        "stop_reason": "stop",
        "worker": "rollout-0",
    } | changes
    versions = {"weight_version": step, "learner_version": step}
    return Sample(step=step, question_key=f"t:{draw}", draw=draw, text=text, valid=True, **versions, **fields)


def evaluation(accuracy: float | None) -> dict[str, Any]:
    part = {"accuracy": accuracy, "silence_accuracy": 0.25, "chance_accuracy": 0.25, "count": 40, "failed": 0}
    return part | {"by_category": {"counting": part, "pitch": part}, "by_task": {"sound": part}}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", "name: my-job\nsteps: 3\n")


def full_run(run: RunDirectory, steps: int) -> None:
    run.append_event("state", state="running")
    run.append_event("evaluation", step=0, result=evaluation(0.25))
    for step in range(1, steps + 1):
        run.append_metrics(dict.fromkeys(METRIC_NAMES, step / 7) | {"step": step})
        run.append_samples([sample(step, step, f"answer {step} {i}") for i in range(3)])
    run.append_event("evaluation", step=steps, result=evaluation(0.75))


def test_report_of_a_whole_run(run: RunDirectory) -> None:
    full_run(run, 12)
    run.write_summary(
        {
            "state": "succeeded",
            "baseline_accuracy": 0.25,
            "final_accuracy": 0.75,
            "silence_accuracy": 0.2,
            "chance_accuracy": 0.25,
            "steps": 12,
            "seconds": 200.0,
        }
    )
    assert write_report(run) == run.report_file
    page = Page(run.report_file.read_text(encoding="utf-8"))
    for words in ("my-job", "succeeded", "25.0% → 75.0%", "20.0%", "3m 20s", "95 % interval 59.8% to 85.8%"):
        assert words in page.text
    plots = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(plots) == 14
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    shown = [step for step in range(1, 13) if f"answer {step} 0" in page.text]
    assert shown == [1, 2, 3, 10, 11, 12]
    assert "accuracy, step 12: 1.71" in page.text


def test_report_needs_no_network(run: RunDirectory) -> None:
    full_run(run, 3)
    text = render_report(run)
    assert "://" not in text
    assert "url(" not in text
    tags = {tag for tag, _ in Page(text).tags}
    assert not tags & {"script", "img", "link", "iframe", "object", "a", "base", "form", "use", "image"}
    assert "default-src 'none'" in text


def test_hostile_text_stays_text(run: RunDirectory, tmp_path: Path) -> None:
    hostile = RunDirectory.create(tmp_path / "<script>", f"name: '{HOSTILE[:30]}'\n{{{{{HOSTILE}")
    part = {"accuracy": 0.5, "count": 3}
    for directory in (run, hostile):
        step = sample(1, 1, HOSTILE, question=HOSTILE, choices=(HOSTILE, "b"), answer=HOSTILE, audio=HOSTILE)
        failed = sample(1, 1, HOSTILE, error=HOSTILE, rewards={HOSTILE: 1.0})
        directory.append_samples([step, failed, sample(1, 1, HOSTILE, rewards={HOSTILE: 1.0})])
        directory.append_event("evaluation", step=1, result={"by_category": {HOSTILE: part}, "by_task": {}})
        directory.append_event(HOSTILE, detail=HOSTILE, more={HOSTILE: HOSTILE})
        directory.append_event("state", state=HOSTILE)
        page = Page(render_report(directory))
        assert not {"script", "img"} & {tag for tag, _ in page.tags}
        assert not any(name.startswith("on") or name == "src" for _, attrs in page.tags for name in attrs)
        assert "<script>alert(1)</script>" in page.text
        assert not {"\x1b", "\u202e"} & set(page.text)
        assert "⟨U+202E⟩" in page.text


@pytest.mark.parametrize(
    "place", ["job name", "question", "choice", "answer", "completion", "reward", "event", "state"]
)
def test_a_script_is_shown_and_never_run(place: str, tmp_path: Path) -> None:
    script = "<script>alert('x')</script>{{ 7 * 7 }}"
    run = RunDirectory.create(tmp_path / "run", f'name: "{script if place == "job name" else "my-job"}"\n')
    changes: dict[str, Any] = {
        "question": {"question": script},
        "choice": {"choices": (script, "b")},
        "answer": {"choices": (script, "b"), "answer": script},
        "reward": {"rewards": {script: 1.0}},
    }.get(place, {})
    run.append_samples([sample(1, 1, script if place == "completion" else "a dog", **changes)])
    run.append_event("state", state=script if place == "state" else "running")
    if place == "event":
        run.append_event("error", message=script, detail={script: [script]})
    page = Page(render_report(run))
    assert "script" not in {tag for tag, _ in page.tags}
    assert script in page.text


def test_report_of_nothing(run: RunDirectory) -> None:
    page = Page(render_report(run))
    assert "No values." in page.text
    assert "No values. There is no reference where learner.beta is 0." in page.text
    assert "unknown" in page.text
    assert "– → –" in page.text


@pytest.mark.parametrize("steps", [1, 2])
def test_report_of_few_steps(run: RunDirectory, steps: int) -> None:
    full_run(run, steps)
    assert "answer 1 0" in Page(render_report(run)).text


def test_report_before_the_first_step_has_only_a_baseline(run: RunDirectory) -> None:
    run.append_event("state", state="running")
    run.append_event("evaluation", step=0, result=evaluation(0.25))
    page = Page(render_report(run))
    assert "25.0% → –" in page.text
    assert "running" in page.text


def test_report_of_nulls_and_gaps(run: RunDirectory) -> None:
    for step in range(1, 6):
        run.append_metrics(
            {"step": step, "kl/ref": math.nan if step == 3 else 0.1, "time/learn": None, "entropy": None}
        )
    run.append_event("evaluation", step=5, result=evaluation(None))
    run.append_samples([sample(5, 5, "x" * 5000, reward=None, advantage=None)])
    run.write_summary({"state": "failed", "final_accuracy": None})
    text = render_report(run)
    page = Page(text)
    assert "failed" in page.text
    assert "(5000 characters)" in page.text
    kl = text[text.index("KL to the reference") : text.index("Entropy")]
    assert len(re.findall("<polyline", kl)) == 2
    assert "nan" not in text.lower().replace("nanum", "")


def test_report_shows_an_incomplete_last_line(run: RunDirectory) -> None:
    (run.path / "samples.jsonl").write_bytes(b'{"step"')
    assert "samples.jsonl ends in an incomplete line." in Page(render_report(run)).text


def test_report_stays_small_however_long_the_run(run: RunDirectory) -> None:
    full_run(run, 1500)
    assert len(render_report(run)) < 1_000_000


VALUES = st.none() | st.floats(-1e100, 1e100)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), max_size=30), st.integers(0, 10**6))
def test_plots_of_any_values_are_well_formed(rows: list[tuple[float | None, float | None]], start: int) -> None:
    series = [Series(name, [(start + i, row[k]) for i, row in enumerate(rows)]) for k, name in enumerate("ab")]
    for text in (line_plot("t", series, unit="s"), stacked_plot("t", series, unit="s")):
        page = Page(text)
        numbers = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("x", "y", "cx", "cy")]
        assert all(math.isfinite(float(value or "nan")) for value in numbers)


def test_categories_without_values() -> None:
    assert Page(category_plot("t", [Bar("a", None, None, None, 0), Bar("b", 1.0, 0.0, 0.5, 0)])).tags
    assert "No values." in category_plot("t", [])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_inside_and_are_few(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 7
    assert found == sorted(set(found))
    assert all(low - 1e-6 * (abs(low) + span) <= tick <= low + span + 1e-6 * (abs(low) + span) for tick in found)


def test_ticks_close_together_have_different_labels() -> None:
    text = line_plot("t", [Series("a", [(1, 1.001), (2, 1.003)])])
    labels = re.findall(r'text-anchor="end">([^<]*)<', text)
    assert labels == ["1.001", "1.0015", "1.002", "1.0025", "1.003"]


def test_interval_is_wilsons() -> None:
    assert interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert interval(0.0, 0) == (0.0, 1.0)


def test_numbers_are_short() -> None:
    written = [number(value) for value in (0.0, 0.12345, 1.0, 123.4, 5000.0, 12345.0, 2.5e6, -3e-7)]
    assert written == ["0", "0.123", "1", "123", "5000", "12.3k", "2.5M", "-3e-07"]
