"""Write docs/reference/metrics.md, events.md and problems.md from the tables in the code.

Run `python docs/generate_reference.py`.
"""

from collections.abc import Iterable
from pathlib import Path

from orchestrator.run.events import EventKind
from orchestrator.run.metrics import COLUMNS, OTHERS, MetricDescription
from orchestrator.schemas.problem_code import KINDS

REFERENCE = Path(__file__).parent / "reference"

METRICS = """\
# Metrics

<!-- Written by docs/generate_reference.py from orchestrator/run/metrics.py. Change the table there, then run
`.venv/bin/python docs/generate_reference.py`. -->

`metrics.jsonl` in a run directory has one line per learner step: an object with these keys. A value that a step does
not have is null or absent. After a resumption the steps that are repeated replace the earlier ones. TensorBoard, the
other trackers, `earshot metrics` and `GET /v1/jobs/ID/metrics` use the same names.

## In every run

In the order of the columns. Supervised steps have null for metrics of reinforcement learning.

"""

OTHER_METRICS = """
## Others

In alphabetical order, after the columns above. `reward/NAME` is written for every reward function of the job.

"""

EVENTS = """\
# Events

<!-- Written by docs/generate_reference.py from orchestrator/run/events.py. Change the kinds there, then run
`.venv/bin/python docs/generate_reference.py`. -->

`events.jsonl` in a run directory has one line per event, in chronological order. Every event has `time` (ISO 8601, UTC)
and `kind`; the other fields depend on the kind. `GET /v1/jobs/ID/events` gives the same objects, and `earshot watch`
shows them. A reader should ignore kinds and fields it does not know.

"""

PROBLEMS = """\
# Problems

<!-- Written by docs/generate_reference.py from orchestrator/schemas/problem_code.py. Change the kinds there, then run
`.venv/bin/python docs/generate_reference.py`. -->

Every error of the API is a problem document ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)). Its `code` says which
kind of problem it is, and its `type` is `/problems/CODE`, where the service explains the kind. A code keeps its meaning
and its status; programs branch on it, and should expect codes that they do not know. `detail` is one line for people.

| `code` | status | | what to do |
|---|---|---|---|
"""


def pages() -> dict[Path, str]:
    """Return the text of each page by its file."""
    metrics = METRICS + _metrics(COLUMNS) + OTHER_METRICS + _metrics(OTHERS)
    return {
        REFERENCE / "metrics.md": metrics,
        REFERENCE / "events.md": EVENTS + "\n".join(_event(kind) for kind in EventKind),
        REFERENCE / "problems.md": PROBLEMS + _problems(),
    }


def _metrics(table: Iterable[MetricDescription]) -> str:
    rows = ["| metric | unit or range | meaning | written |", "|---|---|---|---|"]
    rows += [f"| `{metric.name}` | {metric.unit} | {metric.meaning} | {metric.written} |" for metric in table]
    return "\n".join(rows) + "\n"


def _problems() -> str:
    ordered = sorted(KINDS.items(), key=lambda item: (item[1].status, item[0]))
    return "".join(f"| `{code}` | {kind.status} | {kind.title} | {kind.meaning} |\n" for code, kind in ordered)


def _event(kind: EventKind) -> str:
    rows = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in kind.fields.items())
    return f"## `{kind}`\n\n{kind.meaning}\n\n| field | |\n|---|---|\n{rows}"


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
