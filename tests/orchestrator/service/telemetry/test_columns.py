"""Columns equal the run directory's metrics, also after a run rolls back, and only new lines are read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.run import lines
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import RunDirectoryError
from orchestrator.service.telemetry.columns import MetricColumns, Metrics


def make_run(folder):
    return RunDirectory.create(folder, "name: test\n")


def rows(series):
    return [
        {"step": step} | {name: values[i] for name, values in series.means.items()}
        for i, step in enumerate(series.steps)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 12), max_size=6), min_size=1, max_size=6),
    st.integers(40, 400),
)
def test_any_order_of_steps_reads_as_the_run_directory_does(tmp_path_factory, batches, piece):
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    kept = MetricColumns(run.path / "metrics.jsonl")
    before, lines._BLOCK = lines._BLOCK, piece
    try:
        for i, batch in enumerate(batches):
            for step in batch:
                run.append_metrics({"step": step, "reward/mean": i + step / 10, f"extra/{i % 2}": float(i)})
            expected = run.metrics()
            found = rows(kept.query(None, None, 1000))
            assert [row["step"] for row in found] == [row["step"] for row in expected]
            for row, wanted in zip(found, expected, strict=True):
                assert {name: value for name, value in row.items() if value is not None} == wanted
    finally:
        lines._BLOCK = before


def test_a_file_that_was_truncated_and_rewritten_is_read_again(tmp_path):
    run = make_run(tmp_path / "run")
    kept = MetricColumns(run.path / "metrics.jsonl")
    for step in range(1, 6):
        run.append_metrics({"step": step, "reward/mean": 1.0})
        if step == 2:
            offsets = run.offsets()
    assert kept.query(None, None, 10).last_step == 5
    run.roll_back(offsets)
    assert kept.query(None, None, 10).steps == [1, 2]
    for step in range(3, 9):
        run.append_metrics({"step": step, "reward/mean": 2.5})
    series = kept.query(2, ["reward/mean"], 10)
    assert (series.steps, series.means) == ([3, 4, 5, 6, 7, 8], {"reward/mean": [2.5] * 6})
    assert series.minima is None


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    kept = MetricColumns(run.path / "metrics.jsonl")
    taken = []
    parse = kept._rows.parse
    monkeypatch.setattr(kept._rows, "parse", lambda data: (taken.append(data.count(b"\n")), parse(data))[1])
    for step in range(50):
        run.append_metrics({"step": step})
    kept.query(None, None, 5)
    run.append_metrics({"step": 50})
    kept.query(None, None, 5)
    kept.query(None, None, 5)
    assert taken == [50, 1]


def test_buckets_keep_the_extremes(tmp_path):
    run = make_run(tmp_path / "run")
    values = [None if i % 7 == 0 else float((i * 37) % 101) for i in range(1000)]
    for step, value in enumerate(values):
        run.append_metrics({"step": step, "reward/mean": value, "eval/accuracy": 0.5 if step == 999 else None})
    series = Metrics().of(run.path).query(None, None, 40)
    assert len(series.steps) == 40
    assert series.steps[-1] == 999
    edges = np.linspace(0, 1000, 41).astype(int)
    for i in range(40):
        held = [v for v in values[edges[i] : edges[i + 1]] if v is not None]
        assert series.means["reward/mean"][i] == pytest.approx(sum(held) / len(held))
        assert series.minima["reward/mean"][i] == min(held)
        assert series.maxima["reward/mean"][i] == max(held)
    assert series.means["eval/accuracy"] == [None] * 39 + [0.5]
    assert series.names == ["step", "reward/mean", "eval/accuracy"][1:]


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"3\n", b"{\n", b'{"step": "a"}\n', b'{"step": 1e99}\n', b"\xff\n"])
def test_a_line_that_is_not_metrics_is_an_error(tmp_path, line):
    run = make_run(tmp_path / "run")
    (run.path / "metrics.jsonl").write_bytes(line)
    with pytest.raises(RunDirectoryError):
        MetricColumns(run.path / "metrics.jsonl").query(None, None, 5)


def test_what_is_not_a_number_has_no_value(tmp_path):
    run = make_run(tmp_path / "run")
    kept = MetricColumns(run.path / "metrics.jsonl")
    (run.path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "a": 1.5, "b": true}\n{"b": null, "step": 2, "a": "high"}\n{"step": 3, "c": [1], "a": 7}\n'
    )
    series = kept.query(None, None, 10)
    assert series.means == {"a": [1.5, None, 7.0], "b": [1.0, None, None], "c": [None, None, None]}


def test_a_run_without_metrics_has_none(tmp_path):
    kept = Metrics().of(tmp_path)
    assert kept.query(None, None, 10).steps == []


def test_memory_is_bounded(tmp_path):
    metrics = Metrics(most_bytes=100_000)
    for i in range(5):
        run = make_run(tmp_path / str(i))
        run.append_metrics({"step": 1} | {f"m/{k}": 1.0 for k in range(20)})
        metrics.of(run.path).query(None, None, 5)
    assert len(metrics._kept) < 5
