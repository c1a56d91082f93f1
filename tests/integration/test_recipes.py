"""Parts of the recipes in real jobs: rewards of every kind, a curriculum, a filter by silence, no labels."""

import json

import pytest
from integration.conftest import WARM, earshot, lines
from support.judge_server import judge_server

from audio_qa.dataset import read_jsonl


def run(*arguments, timeout=900):
    done = earshot(*arguments, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_rewards_of_every_kind_and_a_curriculum_in_one_job(job_file, tmp_path):
    """One completion in a few is not rated by its judge: it is masked, and the others are trained on."""
    with judge_server(lambda _, prompt: (400, "") if sum(prompt.encode()) % 5 == 0 else "Score: 7") as judge:
        job = job_file(
            tmp_path / "job",
            steps=2,
            data={"curriculum": {"uniform": 0.2}},
            rollout={"workers": 1},
            reward={
                "functions": {"accuracy": 1, "format": 1, "consistency": 1, "majority": 0, "length": 1, "judge": 0.5},
                "length": {"target": 4, "tolerance": 4},
                "judge": {"url": judge.url, "model": "m", "prompt": "{completion}"},
                "overlong_tokens": 4,
            },
            learner={"loss": {"dynamic_sampling": True}},
            evaluation={"every": 0, "questions": 2},
            checkpoint={"every": 1},
        )
        summary = run("run", job, "--run-dir", tmp_path / "run", "--json")
    named = {"accuracy", "format", "consistency", "majority", "length", "judge", "overlong"}
    metrics, samples = lines(tmp_path / "run" / "metrics.jsonl"), lines(tmp_path / "run" / "samples.jsonl")
    assert all(f"reward/{name}" in step for step in metrics for name in named)
    rated = [sample for sample in samples if sample["valid"]]
    masked = [sample for sample in samples if not sample["valid"]]
    assert rated
    assert masked
    assert all(set(sample["rewards"]) == named and sample["rewards"]["judge"] == 0.7 for sample in rated)
    assert all((sample["reward"], sample["advantage"]) == (None, None) for sample in masked)
    assert all("judge: the judge answered HTTP 400" in sample["error"] for sample in masked)
    unscored = [e for e in lines(tmp_path / "run" / "events.jsonl") if e["kind"] == "unscored"]
    assert sum(event["completions"] for event in unscored) == len(masked) == sum(m["samples/invalid"] for m in metrics)

    counts = summary["questions"]
    assert counts["drawn"] == sum(value for name, value in counts.items() if name != "drawn")
    saved = json.loads((tmp_path / "run" / "checkpoints" / "step-2" / "training_state" / "job.json").read_text())
    assert set(saved["solve_rates"]) == {sample["question_key"] for sample in samples}
    assert saved["position"] == counts["drawn"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_what_is_known_without_hearing_is_left_out_and_the_rest_is_trained_on_without_labels(job_file, tmp_path):
    job = job_file(tmp_path / "job", steps=1, warm_start=WARM, rollout={"workers": 1}, evaluation={"questions": 2})
    run("run", job, "--run-dir", tmp_path / "run", "--json")
    model = tmp_path / "run" / "checkpoints" / "step-0"
    questions, output = tmp_path / "job" / "data" / "train.jsonl", tmp_path / "heard.jsonl"
    told = run(
        *("data", "filter", questions, "--model", model, "--output", output, "--json"),
        *("--samples", 4, "--threshold", 0.25, "--max-tokens", 8),
    )
    before, kept = read_jsonl(questions), read_jsonl(output)
    dropped = lines(tmp_path / "heard.dropped.jsonl")
    assert dropped == told["dropped"]
    assert dropped
    assert all(item["right"] >= 1 and item["asked"] == 4 for item in dropped)
    assert sorted([q.id for q in kept] + [item["id"] for item in dropped]) == sorted(q.id for q in before)
    assert (told["questions"], told["kept"], told["failed"]) == (len(before), len(kept), 0)
    assert [q.audio for q in kept] == [q.audio for q in before if q.id in {k.id for k in kept}]

    for line in (records := lines(output)):
        del line["answer"]
    output.write_text("".join(json.dumps(record) + "\n" for record in records))
    job = job_file(
        tmp_path / "unlabelled",
        steps=2,
        model={"path": str(model)},
        # The clips that it trains on and is evaluated on are the same ones: the labels are in the evaluation only.
        data={"train": str(output), "evaluation": str(questions), "unlabelled": True},
        rollout={"workers": 1},
        reward={"functions": {"majority": 1, "format": 0.5}},
        evaluation={"every": 0, "questions": 2},
    )
    run("run", job, "--run-dir", tmp_path / "unlabelled-run", "--json")
    samples = lines(tmp_path / "unlabelled-run" / "samples.jsonl")
    assert {sample["answer"] for sample in samples} == {""}
    assert {tuple(sample["rewards"]) for sample in samples} == {("format", "majority")}
    assert {sample["rewards"]["majority"] for sample in samples} == {0.0, 1.0}
