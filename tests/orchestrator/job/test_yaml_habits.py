"""Values as authors of YAML write them, on every kind of field: what is read, and what a refusal says."""

import pytest

from orchestrator.job.spec_file import SpecError, read_spec

JOB = "name: small\nsteps: 3\nmodel: {path: builtin:tiny-qwen2-audio}\ndata: {train: builtin:synthetic}\n"
RATE = "learner: {optimizer: {learning_rate: VALUE}}"


def read(folder, line, value):
    path = folder / "job.yaml"
    kept = [each for each in JOB.splitlines() if each.partition(":")[0] != line.partition(":")[0]]
    path.write_text("\n".join([*kept, line.replace("VALUE", value)]) + "\n")
    return read_spec(path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1e-6", 1e-6), ("1E-6", 1e-6), ("1.0e-6", 1e-6), ("1.", 1.0), (".5", 0.5), ("+0.5", 0.5), ("1_000", 1000.0)],
)
def test_a_number_needs_no_special_form(tmp_path, written, meant):
    assert read(tmp_path, RATE, written).learner.optimizer.learning_rate == meant


@pytest.mark.parametrize(
    ("line", "written", "words"),
    [
        (RATE, "", "'learner.optimizer.learning_rate' has no value; write one, or remove the key"),
        (RATE, "null", "'learner.optimizer.learning_rate' has no value; write one, or remove the key"),
        ("steps: VALUE", "", "'steps' has no value; write one, or remove the key"),
        ("name: VALUE", "~", "'name' has no value; write one, or remove the key"),
        ("deterministic: VALUE", "", "'deterministic' has no value; write one, or remove the key"),
        (RATE, "'1e-6'", "a number is needed, such as 0.001; remove the quotes (got '1e-6')"),
        ("steps: VALUE", "08", "a whole number is needed, such as 1000 (got '08')"),
        ("steps: VALUE", "\uff11", "a whole number is needed, such as 1000 (got '\uff11')"),
        ("name: VALUE", "2026-01-31", "'name': text is needed; put it in quotes (got 2026-01-31)"),
        ("model: VALUE", "", "'model': a section with keys is needed"),
    ],
)
def test_a_refusal_names_what_was_written(tmp_path, line, written, words):
    with pytest.raises(SpecError) as refused:
        read(tmp_path, line, written)
    assert words in str(refused.value)
    assert "datetime" not in str(refused.value)
    assert "None" not in str(refused.value)
