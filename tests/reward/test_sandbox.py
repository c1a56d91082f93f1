"""Reward functions that misbehave, in real processes: no call changes the outcome of another call."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from reward.outcome import Failed, Outcome
from reward.registry import RewardError
from reward.sandbox import RewardCall, Sandbox

TIMEOUT = 1.0
OBEYS, LENGTH, PROCESS, SLOW = (f"house_rewards:{name}" for name in ("obeys", "length", "process", "slow"))


def make(*functions: str, processes: int = 1) -> Sandbox:
    modules = [name.partition(":")[0] for name in functions]
    return Sandbox(functions, allowed_modules=modules, timeout_seconds=TIMEOUT, processes=processes)


@pytest.fixture(scope="module")
def sandbox(rewards_home: Path) -> Iterator[Sandbox]:
    sandbox = make(OBEYS, LENGTH, PROCESS, SLOW)
    yield sandbox
    sandbox.close()


@pytest.fixture
def pair(rewards_home: Path) -> Iterator[Sandbox]:
    """A sandbox with two processes."""
    sandbox = make(OBEYS, PROCESS, processes=2)
    yield sandbox
    sandbox.close()


def calls(question: Question, function: str, texts: Sequence[str]) -> list[RewardCall]:
    return [RewardCall(function, question, text, PromptTemplate.ANSWER) for text in texts]


def reason(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed)
    assert "\n" not in outcome.reason
    return outcome.reason


def test_outcomes_come_in_order(sandbox: Sandbox, question: Question) -> None:
    texts = ["x" * n for n in range(500)]
    assert sandbox.run(calls(question, LENGTH, texts)) == [n / 10 for n in range(500)]


def test_no_calls_have_no_outcomes(sandbox: Sandbox) -> None:
    assert sandbox.run([]) == []


def test_functions_run_in_another_process(sandbox: Sandbox, question: Question) -> None:
    assert sandbox.run(calls(question, PROCESS, ["a"])) != [os.getpid()]


def test_many_calls_are_fast(sandbox: Sandbox, question: Question) -> None:
    start = time.perf_counter()
    outcomes = sandbox.run(calls(question, LENGTH, ["x"] * 5_000))
    assert outcomes == [0.1] * 5_000
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "explained"),
    [
        ("raise", "KeyError: 'two"),
        ("raise badly", "Mute"),
        ("interrupt", "KeyboardInterrupt"),
        ("exit", "SystemExit: 0"),
        ("nan", "returned nan"),
        ("inf", "returned -inf"),
        ("none", "returned builtins.NoneType, not a number"),
        ("string", "returned builtins.str, not a number"),
        ("huge", "OverflowError"),
        ("end", "its process ended with exit code 3"),
        ("end well", "no result within 1 s"),
        ("kill", "its process ended with signal SIGKILL"),
        ("hang", "no result within 1 s"),
    ],
)
def test_one_bad_call_spoils_no_other(sandbox: Sandbox, question: Question, text: str, explained: str) -> None:
    outcomes = sandbox.run(calls(question, OBEYS, ["fine", "true", text, "fine", "fine"]))
    assert explained in reason(outcomes.pop(2))
    assert outcomes == [0.5, 1.0, 0.5, 0.5]


def test_a_function_that_ignores_signals_is_killed(sandbox: Sandbox, question: Question) -> None:
    start = time.perf_counter()
    outcomes = sandbox.run(calls(question, OBEYS, ["hang deaf", "fine"]))
    assert "no result within 1 s" in reason(outcomes[0])
    assert outcomes[1] == 0.5
    assert time.perf_counter() - start < 30


def test_a_slow_function_within_its_timeout_is_never_interrupted(sandbox: Sandbox, question: Question) -> None:
    # Ten calls take three times the timeout of one.
    assert sandbox.run(calls(question, SLOW, ["a"] * 10)) == [1.0] * 10


def test_several_bad_calls_over_two_processes(pair: Sandbox, question: Question) -> None:
    texts = ["kill", "fine", "end", "hang", *["fine"] * 100, "kill", "raise", "fine"]
    outcomes = pair.run(calls(question, OBEYS, texts))
    assert len(outcomes) == len(texts)
    for text, outcome in zip(texts, outcomes, strict=True):
        assert (outcome == 0.5) == (text == "fine"), (text, outcome)
        assert text == "fine" or isinstance(outcome, Failed)


def test_a_process_killed_between_calls_is_replaced(pair: Sandbox, question: Question) -> None:
    for _ in range(2):
        (pid,) = pair.run(calls(question, PROCESS, ["a"]))
        assert isinstance(pid, float)
        os.kill(int(pid), signal.SIGKILL)
        assert pair.run(calls(question, OBEYS, ["fine"] * 3)) == [0.5] * 3


def test_a_pool_that_cannot_start_again_gives_errors_and_no_wait(rewards_home: Path, question: Question) -> None:
    marker = rewards_home / "started"
    (rewards_home / "once_rewards.py").write_text(
        "import os, pathlib\n"
        f"marker = pathlib.Path({str(marker)!r})\n"
        "if marker.exists():\n"
        "    os._exit(5)\n"
        "marker.touch()\n"
        "def score(question, text, template):\n"
        "    os._exit(5)\n"
    )
    sandbox = make("once_rewards:score")
    outcomes = sandbox.run(calls(question, "once_rewards:score", ["a", "b"]))
    assert [reason(outcome) for outcome in outcomes] == ["its process ended at once, twice"] * 2
    sandbox.close()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("house_rewards:lenght", "nearest there is 'length'"),
        ("broken_rewards:score", "no disk"),
        ("ending_rewards:score", "ended or hung while it imported"),
    ],
)
def test_an_unusable_function_is_refused_at_the_start(rewards_home: Path, name: str, problem: str) -> None:
    with pytest.raises(RewardError, match=problem):
        make(name)


def test_a_hung_function_does_not_outlive_a_killed_owner(rewards_home: Path, tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, sys, threading, time\n"
        "from audio_qa.prompt import PromptTemplate\n"
        "from audio_qa.question import Question\n"
        "from reward.sandbox import RewardCall, Sandbox\n"
        "if __name__ == '__main__':\n"
        "    names = ['house_rewards:process', 'house_rewards:obeys']\n"
        "    sandbox = Sandbox(names, allowed_modules=['house_rewards'], timeout_seconds=100, processes=1)\n"
        "    question = Question('d', 0, 'q', '/a.wav', 'what', ('a', 'b'), 'a')\n"
        "    (pid,) = sandbox.run([RewardCall(names[0], question, '', PromptTemplate.ANSWER)])\n"
        "    print(int(pid), flush=True)\n"
        "    sandbox.run([RewardCall(names[1], question, 'hang', PromptTemplate.ANSWER)])\n"
    )
    path = os.pathsep.join([str(rewards_home), str(Path(__file__).parents[2])])
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        time.sleep(0.5)
        owner.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":  # ended, but not yet reaped
            return
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()
