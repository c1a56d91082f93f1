"""The judge with a real HTTP server that fails in every way: a completion gets its score, or is masked."""

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError
from support.judge_server import JudgeServer, judge_server, slowly

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.rollout import Completion, Group, StopReason
from reward import judge as module
from reward.actor import RewardActor
from reward.judge import Judge, score_in
from reward.judge_settings import JudgeSettings
from reward.outcome import Failed, Outcome
from reward.registry import RewardError
from reward.settings import RewardSettings


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_BACK_OFF_SECONDS", 0.01)


def group(*texts: str) -> Group:
    question = Question("d", 0, "q", "/clip.wav", "What is {heard}?", ("a dog", "a cat"), "a dog")
    completions = tuple(Completion((1,), (-0.1,), text, StopReason.STOP) for text in texts)
    return Group(question, PromptTemplate.THINK, (1, 2), completions, weight_version=0, worker="w")


def settings(url: str, **changes: Any) -> JudgeSettings:
    return JudgeSettings.model_validate(
        {"url": url, "model": "m", "prompt": "{completion}", "timeout_seconds": 20, "max_attempts": 3, **changes}
    )


def rate(server: JudgeServer, *texts: str, **changes: Any) -> list[Outcome]:
    return Judge(settings(server.url, **changes)).rate([group(*texts)])


def reasons(outcomes: list[Outcome]) -> list[str]:
    assert all(isinstance(outcome, Failed) and "\n" not in outcome.reason for outcome in outcomes)
    return [outcome.reason for outcome in outcomes if isinstance(outcome, Failed)]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("7", 0.7),
        (" 10\n", 1.0),
        ("0", 0.0),
        ("7.5", 0.75),
        ("It is fine.\nScore: 4", 0.4),
        ("**Score:** 4", 0.4),
        ("Score: 2. No, score: 9.", 0.9),
        ("score = 3/10", 0.3),
        ("Score: 11", None),
        ("-1", None),
        ("Score: -1", None),
        ("Score: ten", None),
        ("7 of 10", None),
        ("", None),
        ("Score: " + "9" * 100_000, None),
    ],
)
def test_the_score_in_a_reply(reply: str, score: float | None) -> None:
    assert score_in(reply, 10) == score


def test_every_completion_has_its_own_score_in_order() -> None:
    with judge_server(lambda _, prompt: f"Score: {len(prompt)}") as server:
        two = Judge(settings(server.url)).rate([group("aaa", "a"), group("aaaaa")])
        assert two == [0.3, 0.1, 0.5]
        assert server.bodies[0]["model"] == "m"
        assert server.bodies[0]["temperature"] == 0
        assert server.authorizations == {None}


def test_equal_prompts_are_sent_once() -> None:
    with judge_server(lambda *_: "8") as server:
        assert rate(server, "x", "x", "y", "x") == [0.8] * 4
        assert sorted(server.asked) == ["x", "y"]


def test_no_more_requests_at_once_than_allowed() -> None:
    with judge_server(lambda *_: slowly(0.05, "5")) as server:
        texts = [str(i) for i in range(20)]
        assert rate(server, *texts, concurrency=3) == [0.5] * 20
        assert 1 < server.most_at_once <= 3


def test_the_prompt_is_filled_in_once() -> None:
    with judge_server(lambda *_: "5") as server:
        rate(server, "{answer}", prompt='{"q": "{question}"} {choices} {answer} {completion}')
        assert server.asked == ["{\"q\": \"What is {heard}?\"} ['a dog', 'a cat'] a dog {answer}"]


def test_choices_are_written_as_the_question_has_them() -> None:
    """Without Python's escapes, which the completion, written from the same prompt, does not have."""
    prompt = "{question} {choices} {answer} {completion}"
    asked = group("x")
    question = replace(asked.question, choices=("5\u202fkHz", "C:\\dir"), answer="5\u202fkHz")
    with judge_server(lambda *_: "5") as server:
        Judge(settings(server.url, prompt=prompt)).rate([replace(asked, question=question)])
        assert "['5\u202fkHz', 'C:\\dir'] 5\u202fkHz x" in server.asked[0]


def test_additional_keys_of_the_request_are_sent() -> None:
    with judge_server(lambda *_: "5") as server:
        rate(server, "x", extra_body={"chat_template_kwargs": {"enable_thinking": False}, "temperature": 1})
        assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
        assert server.bodies[0]["temperature"] == 1


@pytest.mark.parametrize("fault", [(500, "oops"), (429, "slow down"), (200, "no JSON"), (200, "{}"), "no idea"])
def test_a_temporary_failure_is_retried(fault: str | tuple[int, str]) -> None:
    with judge_server(lambda server, prompt: fault if server.times(prompt) < 3 else "Score: 6") as server:
        assert rate(server, "x", "y") == [0.6, 0.6]
        assert len(server.asked) == 6


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((500, "oops"), "answered HTTP 500 (attempt 3 of 3)"),
        ((200, "no JSON"), "holds no score from 0 to 10: no text"),
        ("no idea", "holds no score from 0 to 10: 'no idea'"),
        ("Score: 99", "holds no score"),
    ],
)
def test_a_permanent_failure_masks_its_completion_only(fault: str | tuple[int, str], reason: str) -> None:
    with judge_server(lambda _, prompt: fault if prompt == "bad" else "9") as server:
        first, bad, last = rate(server, "a", "bad", "b")
        assert (first, last) == (0.9, 0.9)
        assert reason in reasons([bad])[0]
        assert server.times("bad") == 3


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
def test_failures_that_a_retry_cannot_fix_are_not_retried(status: int) -> None:
    with judge_server(lambda *_: (status, "your key sk-secret is wrong")) as server:
        (failed,) = reasons(rate(server, "x"))
        assert failed == f"the judge answered HTTP {status} (attempt 1 of 3)"
        assert len(server.asked) == 1


def test_an_endpoint_that_hangs_is_given_up_by_the_time_out() -> None:
    with judge_server(lambda _, prompt: None if prompt == "bad" else "9") as server:
        good, bad = rate(server, "a", "bad", timeout_seconds=1, max_attempts=2)
        assert good == 0.9
        assert "did not reply within 1 s (attempt 2 of 2)" in reasons([bad])[0]


def test_the_deadline_holds_for_the_whole_batch() -> None:
    with judge_server(lambda _, prompt: None if prompt.startswith("bad") else "9") as server:
        started = time.monotonic()
        texts = ["a", *(f"bad {i}" for i in range(30))]
        good, *bad = rate(server, *texts, deadline_seconds=2, timeout_seconds=50, concurrency=4)
        assert time.monotonic() - started < 40
        assert good == 0.9
        assert reasons(bad) == ["the judge gave no score within 2 s"] * 30


def test_an_endpoint_that_cannot_be_reached() -> None:
    with judge_server(lambda *_: "9") as server:
        gone = server.url
    (failed,) = reasons(Judge(settings(gone, max_attempts=2)).rate([group("x")]))
    assert failed == "the judge cannot be reached (ConnectError) (attempt 2 of 2)"


def test_no_completions_need_no_judge() -> None:
    assert Judge(settings("http://127.0.0.1:9/v1")).rate([]) == []


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "sk-secret\n")
    with judge_server(lambda *_: (401, "sk-secret is wrong")) as server:
        mine = settings(server.url, api_key_env="JUDGE_API_KEY")
        outcomes = Judge(mine).rate([group("x")])
        assert server.authorizations == {"Bearer sk-secret"}
        assert "sk-secret" not in repr(outcomes) + mine.model_dump_json()


def test_without_the_key_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    with pytest.raises(RewardError, match="'JUDGE_API_KEY' holds no key here"):
        Judge(settings("http://host/v1", api_key_env="JUDGE_API_KEY"))


def test_the_actor_masks_what_the_judge_does_not_rate() -> None:
    with judge_server(lambda _, prompt: (500, "") if "bad" in prompt else "5") as server:
        mine = RewardSettings(functions={"accuracy": 1.0, "judge": 0.5}, judge=settings(server.url, max_attempts=1))
        ((good, bad),) = RewardActor(mine, 100).score([group("a dog", "bad")])
    assert (good.rewards, good.total, good.valid) == ({"accuracy": 1.0, "judge": 0.5}, 1.25, True)
    assert (bad.rewards, bad.total, bad.valid) == ({"accuracy": 0.0}, 0.0, False)
    assert bad.error == "judge: the judge answered HTTP 500 (attempt 1 of 1)"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"url": "host:8000/v1"}, "not the URL of an endpoint"),
        ({"url": "file:///etc/passwd"}, "not the URL of an endpoint"),
        ({"url": "http:///v1"}, "not the URL of an endpoint"),
        ({"url": "http://host:99999/v1"}, "port"),
        ({"url": "http://host/v1?key=1"}, "query"),
        ({"url": "http://me:word@host/v1"}, "a user or a password"),
        ({"prompt": "Rate it."}, "{completion}"),
        ({"best": 0}, "greater than 0"),
        ({"api_key_env": "sk-secret"}, "pattern"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(problem)):
        settings("http://host/v1", **changes) if "url" not in changes else settings(**changes)


def test_the_host_is_what_an_allow_list_names() -> None:
    hosts = {"http://Judge:8000/v1": "judge:8000", "https://a.b/v1/": "a.b:443", "http://a.b": "a.b:80"}
    assert {url: settings(url).host for url in hosts} == hosts
