"""The reward `judge`: a language model at an OpenAI-compatible endpoint rates completions.

Invariant: every completion gets exactly one outcome, in order, within the deadline: the judge's score from 0 to 1, or
the reason for its absence. A missing reply never counts as 0. The key goes into the header of the requests and nowhere
else; the body of an error reply is not repeated in messages, since some endpoints include the key in it.
"""

import asyncio
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from audio_qa.errors import EarshotError
from audio_qa.prompt import options_text
from audio_qa.question import Question
from protocol.back_off import back_off
from protocol.frozen_mapping import thaw
from protocol.rollout import Group
from reward.judge_settings import JudgeSettings
from reward.outcome import Failed, Outcome
from reward.registry import RewardError

_FIRST_BACK_OFF_SECONDS = 0.5
_LONGEST_BACK_OFF_SECONDS = 8.0
# Busy, slow, or temporarily broken; with any other status the request itself is wrong.
_RETRYABLE = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_NUMBER = r"[+-]?[0-9]{1,6}(?:\.[0-9]{1,6})?"
_BARE = re.compile(_NUMBER)
_SCORE = re.compile(rf"score[\s:=*_`]{{0,8}}({_NUMBER})(?![\w.]*[0-9])", re.IGNORECASE)


class _NoReplyError(EarshotError):
    """A request that returned no score."""

    def __init__(self, reason: str, *, retryable: bool, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retryable, self.retry_after = retryable, retry_after


def read_key(settings: JudgeSettings) -> str | None:
    """Return the endpoint's key from the environment. Raises RewardError if its variable is not set."""
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
    """Return the score in a judge's reply, from 0 to `best`, divided by `best`; None without a score."""
    text = reply.strip()
    found = text if _BARE.fullmatch(text) else next(iter(reversed(_SCORE.findall(text))), None)
    if found is None or not 0 <= float(found) <= best:
        return None
    return float(found) / best


class Judge:
    """Client of a judge. It has no state: every batch opens its own connections."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Read the key. Raises RewardError if its variable is not set."""
        self._settings = settings
        key = read_key(settings)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def rate(self, groups: Sequence[Group]) -> list[Outcome]:
        """Return the outcomes of all completions of the groups, in order. Blocks for at most the deadline."""
        prompts = [
            self._prompt(group.question, completion.text) for group in groups for completion in group.completions
        ]
        # Equal prompts are sent once: small models often repeat completions.
        rated = asyncio.run(self._rate(dict.fromkeys(prompts)))
        return [rated[prompt] for prompt in prompts]

    async def _rate(self, prompts: Iterable[str]) -> dict[str, Outcome]:
        settings = self._settings
        late = Failed(f"the judge gave no score within {settings.deadline_seconds:g} s")
        rated: dict[str, Outcome] = dict.fromkeys(prompts, late)
        # One task per concurrent request: each takes the next prompt when it has finished one.
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
        """Send requests until there is a score, the attempts are used up, or a retry would not help."""
        attempts, number = self._settings.max_attempts, 0
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, _NoReplyError) and error.retryable),
            wait=_delay,
            stop=stop_after_attempt(attempts),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                number = attempt.retry_state.attempt_number
                with attempt:
                    return await self._request(client, prompt, number)
        except _NoReplyError as error:
            return Failed(f"{error} (attempt {number} of {attempts})")
        raise AssertionError("max_attempts is at least 1")

    async def _request(self, client: httpx.AsyncClient, prompt: str, attempt: int) -> float:
        settings = self._settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": settings.max_tokens,
            # With temperature 0, a retry would get the same reply without a score.
            "temperature": 0 if attempt == 1 else 0.7,
            **thaw(settings.extra_body),
        }
        try:
            # The timeout of httpx applies to each read: a slow stream of bytes would never time out.
            async with asyncio.timeout(settings.timeout_seconds):
                response = await client.post(f"{settings.url}/chat/completions", json=body)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _NoReplyError(
                f"the judge did not reply within {settings.timeout_seconds:g} s", retryable=True
            ) from error
        except httpx.RequestError as error:
            raise _NoReplyError(f"the judge cannot be reached ({type(error).__name__})", retryable=True) from error
        if response.status_code != httpx.codes.OK:
            retryable = response.status_code in _RETRYABLE
            raise _NoReplyError(
                f"the judge answered HTTP {response.status_code}",
                retryable=retryable,
                retry_after=_retry_after(response),
            )
        text = _content(response)
        score = None if text is None else score_in(text, settings.best)
        if score is None:
            shown = "no text" if text is None else repr(text.strip()[-80:])
            raise _NoReplyError(
                f"the judge's reply holds no score from 0 to {settings.best:g}: {shown}", retryable=True
            )
        return score

    def _prompt(self, question: Question, text: str) -> str:
        return self._settings.fill_in(
            {
                "question": question.text,
                "choices": options_text(question.choices),
                "answer": question.answer,
                "completion": text,
            }
        )


def _delay(state: RetryCallState) -> float:
    """Return the seconds before the next attempt: a back-off, or longer if the endpoint requested it."""
    error = state.outcome.exception() if state.outcome is not None else None
    requested = error.retry_after if isinstance(error, _NoReplyError) else 0.0
    delay = back_off(state.attempt_number - 1, _FIRST_BACK_OFF_SECONDS, _LONGEST_BACK_OFF_SECONDS)
    return min(_LONGEST_BACK_OFF_SECONDS, max(delay, requested))


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds of a reply's Retry-After header; 0 without one."""
    value = response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"[0-9]{1,6}", value) else 0.0


def _content(response: httpx.Response) -> str | None:
    """Return the text of a chat completion; None for any other reply."""
    try:
        text: object = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return text if isinstance(text, str) else None
