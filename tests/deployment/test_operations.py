"""The pages for operators: every alert has a section, their figures are the code's, their commands are real."""

import re
import shlex

import pytest
import yaml
from support.cluster.manifests import DEPLOY, ROOT, check_earshot

from deploy.alerts import ALERTS
from orchestrator.job.demand import gpus
from orchestrator.job.memory.rank import learner_bytes
from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.spec import JobSpec

OPERATE = sorted((ROOT / "docs" / "operate").glob("*.md"))
PAGES = [*OPERATE, *sorted(DEPLOY.glob("*/README.md"))]
SIZING = (ROOT / "docs" / "operate" / "sizing.md").read_text(encoding="utf-8")
ALERT_PAGE = (ROOT / "docs" / "reference" / "alerts.md").read_text(encoding="utf-8")


def test_every_alert_has_a_section_and_no_other() -> None:
    sections = dict(re.findall(r"^## (Earshot\w+)\n\n(.+?)(?=\n\n#|\Z)", ALERT_PAGE, re.MULTILINE | re.DOTALL))
    assert list(sections) == [alert.name for alert in ALERTS]
    assert all(len(section) > 100 for section in sections.values())


def test_sizes_are_those_of_the_plan() -> None:
    rows = re.findall(r"^\| ([\d.]+) B \| (\d+) \| (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", SIZING, re.MULTILINE)
    assert len(rows) == 7
    for billions, ranks, stage, beta, of_a_rank, of_an_engine in rows:
        learner = {"dtype": "bfloat16", "ranks": int(ranks), "zero_stage": int(stage), "beta": float(beta)}
        least = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
        spec = JobSpec.model_validate({**least, "learner": learner})
        parameters = int(float(billions) * 1e9)
        assert round(learner_bytes(spec, Sizes(decoder=parameters)) / 2**30, 1) == float(of_a_rank)
        assert round(2 * parameters / 2**30, 1) == float(of_an_engine)


def test_worked_examples_are_those_of_the_plan() -> None:
    row = r"^\| ([\d.]+) B \| `(learner: .+?)`, `(rollout: .+?)` \| ([\d.]+) GiB \| (\d+) \|$"
    rows = re.findall(row, SIZING, re.MULTILINE)
    assert [row[0] for row in rows] == ["0.5", "3", "8", "14", "30"]
    for billions, learner, rollout, of_a_rank, all_gpus in rows:
        least = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
        spec = JobSpec.model_validate({**least, **yaml.safe_load(learner), **yaml.safe_load(rollout)})
        assert round(learner_bytes(spec, Sizes(decoder=int(float(billions) * 1e9))) / 2**30, 1) == float(of_a_rank)
        assert gpus(spec) == int(all_gpus)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_commands_and_folders_are_real(page) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    for command in re.findall(r"(?:^|-- )earshot ([^|>\n]+)", blocks, re.MULTILINE):
        check_earshot(shlex.split(command, comments=True))
    for folder in re.findall(r"(?:apply -k|-f) (deploy/[\w/.-]+)", text):
        assert (ROOT / folder).exists(), folder
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_sections_that_are_linked_are_there() -> None:
    for page in OPERATE:
        for target, anchor in re.findall(r"\]\(([\w./-]+\.md)#([\w-]+)\)", page.read_text(encoding="utf-8")):
            titles = re.findall(r"^#+ (.+)$", (page.parent / target).read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, (page.name, target, anchor)


@pytest.mark.parametrize("page", OPERATE, ids=lambda page: page.stem)
def test_options_that_are_named_exist(page) -> None:
    from typer.testing import CliRunner

    from orchestrator.cli.main import app

    commands = ("serve", "run", "backup", "cluster up", "submit", "jobs", "watch", "logs", "evaluate", "reproduce")
    known = "".join(CliRunner().invoke(app, [*c.split(), "--help"], env={"COLUMNS": "300"}).output for c in commands)
    named = re.findall(r"`(?:earshot serve )?(--[a-z-]+)[` ]", page.read_text(encoding="utf-8"))
    assert not {option for option in named if option not in known} - OF_OTHERS


OF_OTHERS = {"--volumes", "--install-completion"}
"""Options of Docker Compose, and of `earshot` itself."""
