"""Folders that only the jobs of one owner may read: at admission, in the driver, and as clips."""

import json
from pathlib import Path

import pytest
from support.service import SPEC, check_problem, sample, service
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.job.allowed import load
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.questions.job_paths import check_paths
from orchestrator.run.files import ALLOWED
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.store.access import Role
from orchestrator.service.supervision.supervisor import _make_run_directory

pytestmark = pytest.mark.anyio


def questions(folder: Path, clip: str) -> str:
    """Write a clip and a question about it; return the path of the file of questions."""
    item = {"id": "q", "question": "What?", "choices": ["a", "b"], "answer": "a", "audio": clip}
    (folder / "train.jsonl").write_text(json.dumps(item) + "\n")
    return str(folder / "train.jsonl")


@pytest.fixture
async def made(tmp_path):
    """Run a service with a root of all, and in it those of ada and eve."""
    common = tmp_path / "data"
    own = {owner: (common / owner,) for owner in ("ada", "eve")}
    for (folder,) in own.values():
        folder.mkdir(parents=True)
    async with service(tmp_path, local=False, owner_roots=own) as made:
        for name in ("clip.wav", "ada/clip.wav", "eve/clip.wav"):
            made.clip(name)
        yield made


def body(train: str) -> dict:
    return {**SPEC, "data": {"train": train}}


async def test_a_job_reads_the_roots_of_its_owner_and_of_all(made):
    ada, eve = made.client(await made.token("ada")), made.client(await made.token("eve"))
    of_ada = questions(made.data / "ada", "clip.wav")
    of_all = questions(made.data, "clip.wav")
    for path, clients in ((of_ada, [ada]), (of_all, [ada, eve])):
        for client in clients:
            assert (await client.post("/v1/jobs", json=body(path))).status_code == 201, path
    for path in (of_ada, str(made.data / "eve" / ".." / "ada" / "train.jsonl"), str(made.data / "ada" / "missing")):
        for url in ("/v1/jobs", "/v1/jobs:validate"):
            detail = check_problem(await eve.post(url, json=body(path)), 422)["detail"]
            assert "another owner's and not yours" in detail and "What?" not in detail


async def test_links_do_not_lead_into_the_roots_of_others(made):
    eve = made.client(await made.token("eve"))
    questions(made.data / "ada", "clip.wav")
    (made.data / "eve" / "train.jsonl").symlink_to(made.data / "ada" / "train.jsonl")
    check_problem(await eve.post("/v1/jobs", json=body(str(made.data / "eve" / "train.jsonl"))), 422)
    (made.data / "eve" / "train.jsonl").unlink()
    own = questions(made.data / "eve", str(made.data / "ada" / "clip.wav"))
    check_problem(await eve.post("/v1/jobs", json=body(own)), 422)


async def test_a_job_that_an_admin_retries_has_the_roots_of_its_owner(made):
    ada, root = made.client(await made.token("ada")), made.client(await made.token("root", Role.ADMIN))
    path = questions(made.data / "ada", "clip.wav")
    check_problem(await root.post("/v1/jobs", json=body(path)), 422)
    job = (await ada.post("/v1/jobs", json=body(path))).json()["id"]
    assert (await ada.post(f"/v1/jobs/{job}/cancel")).status_code == 200
    assert (await root.post(f"/v1/jobs/{job}/retry")).is_success


async def test_the_driver_enforces_the_roots_of_the_owner(made):
    of_ada = questions(made.data / "ada", "clip.wav")
    for owner, message in (("ada", None), ("eve", "another owner's")):
        job = await made.job(owner, **body(of_ada))
        _make_run_directory(job, None, made.settings.allowed)
        allowed = load((Path(job.run_dir) / ALLOWED).read_text(), "x")
        if message is None:
            check_paths(JobSpec.model_validate(job.spec), allowed)
        else:
            with pytest.raises(SpecError, match=message):
                check_paths(JobSpec.model_validate(job.spec), allowed)


async def test_a_clip_in_the_root_of_another_owner_is_not_served(made):
    status = {}
    for owner in ("ada", "eve"):
        job, run = await made.running(owner)
        run.append_samples([sample(str(made.data / "ada" / "clip.wav"))])
        client = made.client(await made.token(owner))
        (item,) = (await client.get(f"/v1/jobs/{job.id}/samples")).json()["items"]
        status[owner] = (await client.get(item["audio_url"])).status_code
    assert status == {"ada": 200, "eve": 404}


def test_one_root_may_belong_to_two_owners(tmp_path):
    allowed = ApiSettings(
        roots=(), owner_roots={"ada": (tmp_path,), "bob": (tmp_path,), "eve": (tmp_path / "e",)}
    ).allowed
    assert allowed.of_owner("ada").roots == (str(tmp_path),) == allowed.of_owner("bob").roots
    assert str(tmp_path) not in allowed.of_owner("bob").private.places
    assert allowed.of_owner("zoe").roots == ()


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        (["ada={0}/nowhere"], "is not a folder"),
        (["ada={0}", "eve={0}/eve"], "lies in a root of 'ada'; give owners folders beside each other"),
    ],
)
def test_roots_that_contradict_each_other_are_refused(tmp_path, roots, message):
    (tmp_path / "eve").mkdir()
    options = [word for root in roots for word in ("--root", root.format(tmp_path))]
    done = CliRunner().invoke(app, ["serve", "--data-dir", str(tmp_path / "d"), *options])
    assert message in f"{done.output}{done.exception}"
