"""Every command that takes a file, with files that nobody means: exit code 2 and one short line."""

import builtins
import errno
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator.cli.job_file import is_job_file, read_job
from orchestrator.cli.lazy import LazyCommand
from orchestrator.cli.main import app
from orchestrator.job.spec_file import SpecError

JOB = "model: {path: builtin:tiny-qwen2-audio}\ndata: {train: FILE}\n"
MEASURED = "model: {path: builtin:tiny-qwen2-audio}\ndata: {train: builtin:synthetic, curriculum: {measured: FILE}}\n"
QUESTIONS = '{"audio": "a.wav", "question": "What?", "choices": ["a dog", "a cat"], "answer": "a dog"}\n'
COMMANDS = {
    "run": ["run", "FILE", "--dry-run"],
    "submit": ["submit", "FILE"],
    "data check": ["data", "check", "FILE"],
    "data filter": ["data", "filter", "FILE", "--output", "o.jsonl", "--model", "builtin:tiny-qwen2-audio"],
    "score": ["score", "FILE", "--data", "questions.jsonl"],
    "score --data": ["score", "questions.jsonl", "--data", "FILE"],
    "evaluate": ["evaluate", "FILE"],
    "evaluate --data": ["evaluate", "builtin:tiny-qwen2-audio", "--data", "FILE"],
    "compare": ["compare", "FILE", "FILE"],
    "resume": ["run", "--resume", "--run-dir", "FILE"],
    "run, questions": ["run", "job.yaml", "--dry-run"],
    "run, measured": ["run", "measured.yaml", "--dry-run"],
    "restore": ["restore", "FILE", "--data-dir", "new"],
    "join": ["cluster", "join", "localhost", "--token-file", "FILE"],
    "pause": ["pause", "./FILE"],
}


SECRET = "secret.json"
"""A file without the right to read it, which root has in any case: see `as_user`."""


def missing(_: Path) -> str:
    return "missing.json"


def folder(home: Path) -> str:
    (home / "folder.json").mkdir()
    return "folder.json"


def empty(home: Path) -> str:
    (home / "empty.jsonl").touch()
    return "empty.jsonl"


def binary(home: Path) -> str:
    (home / "sound.wav").write_bytes(bytes(range(256)) * 40)
    return "sound.wav"


def text_of_zeros(home: Path) -> str:
    (home / "zeros.json").write_bytes(b"\0" * 4000)
    return "zeros.json"


def huge_line(home: Path) -> str:
    (home / "huge.json").write_text("x" * 2_000_000)
    return "huge.json"


def huge_value(home: Path) -> str:
    (home / "value.json").write_text('{"' + "k" * 300_000 + '": "' + "v\\u001b[31m" * 50_000 + '"}')
    return "value.json"


def deep(home: Path) -> str:
    (home / "deep.json").write_text('{"data": ' + "[" * 200_000)
    return "deep.json"


def number(home: Path) -> str:
    (home / "number.json").write_text("9" * 5000)
    return "number.json"


def parquet(home: Path) -> str:
    (home / "cut.parquet").write_bytes(b"PAR1" + bytes(range(256)) * 4)
    return "cut.parquet"


def escapes_in_name(home: Path) -> str:
    (home / "a\n\x1b[31mb.json").write_text("{")
    return "a\n\x1b[31mb.json"


def long_name(_: Path) -> str:
    return "n" * 5000 + ".json"


def zero_byte(_: Path) -> str:
    return "a\0b.json"


def no_rights(home: Path) -> str:
    (home / "plain.json").write_text("{}")
    (home / "plain.json").rename(home / SECRET).chmod(0)
    return SECRET


def no_text(home: Path) -> str:
    (home / "latin.jsonl").write_bytes(b'{"question": "caf\xe9"}\n')
    return "latin.jsonl"


KINDS = [
    missing, folder, empty, binary, text_of_zeros, huge_line, huge_value, deep, number, parquet, escapes_in_name,
    long_name, zero_byte, no_rights, no_text,
]  # fmt: skip


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let opening `SECRET` fail for root, too, as it does for every other user."""
    if os.geteuid() != 0:
        return

    def refusing(opened: Callable[..., Any]) -> Callable[..., Any]:
        def open_file(file: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(file, str | os.PathLike) and os.fspath(file).endswith(SECRET):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(file))
            return opened(file, *arguments, **options)

        return open_file

    for module in (io, builtins, os):
        monkeypatch.setattr(module, "open", refusing(module.open))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "questions.jsonl").write_text(QUESTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EARSHOT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EARSHOT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("EARSHOT_TRACEBACK", raising=False)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("as_user")
def test_one_line_and_exit_code_2(command: str, kind: Callable[[Path], str], home: Path) -> None:
    name = kind(home)
    for file, text in (("job.yaml", JOB), ("measured.yaml", MEASURED)):
        quoted = "".join(f"\\x{ord(c):02x}" if not c.isprintable() else c for c in name)
        (home / file).write_text(text.replace("FILE", f'"{quoted}"'))
    before = sorted(home.rglob("*"))
    done = CliRunner().invoke(app, [part.replace("FILE", name) for part in COMMANDS[command]])
    assert done.exit_code == 2, (done.stdout, done.stderr, done.exception)
    lines = done.stderr.splitlines()
    assert all(line.isprintable() and len(line) < 1040 for line in lines), lines
    if command == "data check" and done.stdout:  # the problems are its result
        assert len(done.stdout) < 10_000
        assert all(line.isprintable() for line in done.stdout.splitlines())
    else:
        assert [line.split(":")[0].split()[0] for line in lines if line != "reading questions and clips"] == ["earshot"]
        assert done.stdout == ""
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mmau.json", '{"data": [' + ", ".join(['{"id": "1", "question": "What?"}'] * 4000) + "]}"),
        ("pretty.json", '{\n "version": "1.0",\n "data": [\n  {\n   "id": "1"\n  }\n ]\n}\n'),
        ("array.json", '[{"id": "1", "question": "What?"}]'),
        ("lines.jsonl", QUESTIONS * 2),
        ("named_wrongly.yaml", QUESTIONS),
        ("table.csv", "id,audio,Question,answer\n1,a.wav,What: is heard?,a dog\n"),
        ("table.tsv", "audio\tquestion\n"),
    ],
)
def test_a_question_file_is_not_a_job_file(name: str, text: str, home: Path) -> None:
    (home / name).write_text(text)
    for command in (["run", name], ["run", name, "--dry-run"], ["submit", name]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert done.stderr == (
            f"earshot: {name}: a question file, not a job file; name it as data.train in a job file, or check it with "
            "`earshot data check`\n"
        )
    assert is_job_file(name) == name.endswith(".yaml")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("job.json", '{"model": {"path": "m"}, "data": {"train": "t.jsonl"}}'),
        ("job", "model: {path: m}\ndata:\n  train: t.jsonl\n"),
        ("JOB.YML", "steps: 3\n"),
        ("comma.json", '{"name": "j", "model": {"path": "m"},}'),
        ("first.json", '{"data": {"train": "t.jsonl"}}'),
        ("marked.json", '\ufeff{"data": {"train": "t.jsonl"}}'),
    ],
)
def test_a_job_file_is_not_a_question_file(name: str, text: str, home: Path) -> None:
    (home / name).write_text(text)
    assert is_job_file(name)
    for command in (["evaluate", "m", "--data", name], ["score", "questions.jsonl", "--data", name]):
        done = CliRunner().invoke(app, command)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == f"earshot: '{name}' is a job file; name a question file, or start it with earshot run\n"


def test_a_large_file_is_refused_quickly(home: Path) -> None:
    starts = {"model.safetensors": b"\x08\0\0\0", "large.json": b'{"name": "x', "q.jsonl": QUESTIONS.encode() * 9}
    for name, start in starts.items():
        with (home / name).open("wb") as file:
            file.write(start)
            file.truncate(2**30)
        started = time.process_time()
        done = CliRunner().invoke(app, ["run", name])
        assert done.exit_code == 2
        assert len(done.stderr) < 200
        assert time.process_time() - started < 2


def test_a_pipe_and_a_link_as_job_file(home: Path) -> None:
    os.mkfifo(home / "pipe")
    text = "model: {path: m}\ndata: {train: t.jsonl}\n"
    writer = threading.Thread(target=(home / "pipe").write_text, args=(text,))
    writer.start()
    spec = read_job(home / "pipe")
    writer.join()
    assert spec.data.train == str(home / "t.jsonl")
    (home / "blobs").mkdir()
    (home / "blobs" / "abc").write_text(text)
    (home / "job.json").symlink_to("blobs/abc")
    with pytest.raises(SpecError, match=r"job\.json: not valid JSON"):  # the suffix is the link's
        read_job(home / "job.json")
    (home / "job.yaml").symlink_to("blobs/abc")
    assert read_job(home / "job.yaml").data.train == str(home / "t.jsonl")


def options_of(command: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every option, with the name of its command."""
    command = command.load() if isinstance(command, LazyCommand) else command
    for name, inner in getattr(command, "commands", {}).items():
        yield from options_of(inner, (*above, name))
    for option in command.params:
        yield above, option


def is_float(option: Any) -> bool:
    return option.type_descriptor is not None and option.type_descriptor.annotation in (float, float | None)


def test_every_option_with_a_number_takes_finite_ones_only() -> None:
    options = [(name, option) for name, option in options_of(get_command(app)) if is_float(option)]
    assert len(options) >= 10
    for name, option in options:
        for text in ("nan", "inf", "-inf", "1e999"):
            with pytest.raises(typer.BadParameter):
                option.process_value(typer.Context(get_command(app)), text)
                pytest.fail(f"{name} {option.name} {text}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "p.json", "--data", "q.json", "--seed", "9" * 5000],
        ["run", "job.yaml", "--dry-run", "--seed", "9" * 5000],
        ["run", "job.yaml", "--dry-run", "--seed", "9" * 500],
        ["run", "job.yaml", "--dry-run", "--seed", "-1"],
        ["token", "create", "ada", "--days", "nan"],
        ["token", "create", "ada", "--days", "1e300"],
        ["serve", "--max-gpus", "nan"],
        ["watch", "job", "--every", "inf"],
        ["evaluate", "m", "--temperature", "inf"],
        ["evaluate", "m", "--gpus", "2.5"],
        ["data", "filter", "job.yaml", "--output", "o.jsonl", "--gpus", "1.5"],
        ["x\x1b[31m\n" * 4000],
        ["run", "job.yaml", "--" + "o" * 5000],
        ["evaluate", "m", "--controls", "c" * 5000],
        ["evaluate", "m", "--format", "f" * 5000],
        ["score", "p.json", "--data", "q.json", "--column", "c" * 5000],
        ["jobs", "--url", "u" * 5000],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_an_argument_that_nobody_means(arguments: list[str], home: Path) -> None:
    (home / "job.yaml").write_text("model: {path: builtin:tiny-qwen2-audio}\ndata: {train: builtin:synthetic}\n")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2, done.stderr
    assert done.stdout == ""
    line = done.stderr.removesuffix("\n")
    assert line.isprintable()
    assert len(line) < 1040
