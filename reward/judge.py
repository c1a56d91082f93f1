"""A judge: a language model behind an OpenAI-compatible endpoint that rates completions.

Invariant: every completion gets exactly one outcome, in order, within the deadline: a number from 0 to 1 that the judge
gave, or why there is none. No reply, no score: it never counts as 0. The key goes into the requests' header and nowhere
else; what an endpoint replies with an error is not repeated, since some repeat the key.
"""

import asyncio
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import httpx

from audio_qa.question import Question
from protocol.rollout import Group
from reward.judge_settings import JudgeSettings
from reward.outcome import Failed, Outcome
from reward.registry import RewardError

_FIRST_BACK_OFF_SECONDS = 0.5
_LONGEST_BACK_OFF_SECONDS = 8.0
# Too busy, too slow, or broken for a moment; anything else says that the request itself is wrong.
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_NUMBER = r"[+-]?[0-9]{1,6}(?:\.[0-9]{1,6})?"
_BARE = re.compile(_NUMBER)
_SCORE = re.compile(rf"score[\s:=*_`]{{0,8}}({_NUMBER})(?![\w.]*[0-9])", re.IGNORECASE)


class _NoReplyError(Exception):
    """One request that brought no score."""

    def __init__(self, reason: str, *, again: bool, after: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.after = again, after


def read_key(settings: JudgeSettings) -> str | None:
    """The endpoint's key, from the environment. Raises RewardError where its variable is not set."""
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise RewardError(
            f"reward.judge.api_key_env: the environment variable {settings.api_key_env!r} holds no key here; set it "
            "where the reward actor runs"
        )
    return key


def score_in(reply: str, best: float) -> float | None:
    """The number that a judge's reply gives, from 0 to `best`, divided by `best`; None where it gives none."""
    text = reply.strip()
    found = text if _BARE.fullmatch(text) else next(iter(reversed(_SCORE.findall(text))), None)
    if found is None or not 0 <= float(found) <= best:
        return None
    return float(found) / best


class Judge:
    """Rates completions by asking. It has no state: every batch opens its own connections."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Raises RewardError where the key is not to be had."""
        self._settings = settings
        key = read_key(settings)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def rate(self, groups: Sequence[Group]) -> list[Outcome]:
        """The outcomes of all completions of the groups, in order. Blocks for at most the deadline."""
        prompts = [
            self._prompt(group.question, completion.text) for group in groups for completion in group.completions
        ]
        # The same text to the same question is asked about once: small models say the same thing often.
        rated = asyncio.run(self._rate(dict.fromkeys(prompts)))
        return [rated[prompt] for prompt in prompts]

    async def _rate(self, prompts: Iterable[str]) -> dict[str, Outcome]:
        settings = self._settings
        late = Failed(f"the judge gave no score within {settings.deadline_seconds:g} s")
        rated: dict[str, Outcome] = dict.fromkeys(prompts, late)
        # As many workers as requests may be under way: each takes the next prompt when it is done with one.
        waiting = iter(list(rated))
        limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
        async with httpx.AsyncClient(headers=self._headers, timeout=settings.timeout_seconds, limits=limits) as client:

            async def work() -> None:
                for prompt in waiting:
                    rated[prompt] = await self._ask(client, prompt)

            workers = [asyncio.ensure_future(work()) for _ in range(min(settings.concurrency, len(rated)))]
            if not workers:
                return rated
            done, left = await asyncio.wait(workers, timeout=settings.deadline_seconds)
            for worker in left:
                worker.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for worker in done:
                worker.result()
        return rated

    async def _ask(self, client: httpx.AsyncClient, prompt: str) -> Outcome:
        """Ask until there is a score, the attempts are used up, or asking again would not help."""
        attempts, pause = self._settings.max_attempts, _FIRST_BACK_OFF_SECONDS
        for attempt in range(1, attempts + 1):
            try:
                return await self._request(client, prompt, attempt)
            except _NoReplyError as error:
                if not error.again or attempt == attempts:
                    return Failed(f"{error} (attempt {attempt} of {attempts})")
                await asyncio.sleep(min(_LONGEST_BACK_OFF_SECONDS, max(pause, error.after)))
                pause *= 2
        raise AssertionError("max_attempts is at least 1")

    async def _request(self, client: httpx.AsyncClient, prompt: str, attempt: int) -> float:
        settings = self._settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": settings.max_tokens,
            # A reply without a score would be the same again.
            "temperature": 0 if attempt == 1 else 0.7,
        } | settings.extra_body
        try:
            # httpx's time-outs are for each read: a reply that drips would never end.
            async with asyncio.timeout(settings.timeout_seconds):
                response = await client.post(f"{settings.url}/chat/completions", json=body)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _NoReplyError(f"the judge did not reply within {settings.timeout_seconds:g} s", again=True) from error
        except httpx.RequestError as error:
            raise _NoReplyError(f"the judge cannot be reached ({type(error).__name__})", again=True) from error
        if response.status_code != httpx.codes.OK:
            again = response.status_code in _AGAIN
            raise _NoReplyError(f"the judge answered HTTP {response.status_code}", again=again, after=_after(response))
        text = _content(response)
        score = None if text is None else score_in(text, settings.best)
        if score is None:
            shown = "no text" if text is None else repr(text.strip()[-80:])
            raise _NoReplyError(f"the judge's reply holds no score from 0 to {settings.best:g}: {shown}", again=True)
        return score

    def _prompt(self, question: Question, text: str) -> str:
        return self._settings.ask(
            {
                "question": question.text,
                "choices": repr(list(question.choices)),
                "answer": question.answer,
                "completion": text,
            }
        )


def _after(response: httpx.Response) -> float:
    """The seconds that a busy endpoint asks to be left alone."""
    value = response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"[0-9]{1,6}", value) else 0.0


def _content(response: httpx.Response) -> str | None:
    """The text of a chat completion; None for anything else."""
    try:
        text: object = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return text if isinstance(text, str) else None
