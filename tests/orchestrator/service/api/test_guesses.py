"""Guesses of tokens are slowed down in fact, and those who have a valid one are not locked out by them."""

import asyncio

import pytest
from support.service import check_problem, service

from orchestrator.service.api.guesses import Guesses, TooManyGuessesError
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import token_hash
from orchestrator.service.store.store import StoreUnavailableError

pytestmark = pytest.mark.anyio

ADDRESS = "10.0.0.9"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Database:
    """Valid tokens by their hashes, and the hashes that were looked up."""

    def __init__(self, *valid: str) -> None:
        self.valid, self.asked = set(valid), list[str]()
        self.down = False

    async def __call__(self, hashed: str) -> str | None:
        self.asked.append(hashed)
        await asyncio.sleep(0)
        if self.down:
            raise StoreUnavailableError("down")
        return hashed if hashed in self.valid else None


async def found(guesses: Guesses, client: str, token: str) -> bool | None:
    """Return whether the token was found, or None if it was not looked up."""
    try:
        return await guesses.find(client, token) is not None
    except TooManyGuessesError as error:
        assert error.wait > 0
        return None


async def test_after_the_burst_a_token_is_looked_up_only_when_the_wait_is_over():
    clock, database = Clock(), Database("known", "new")
    guesses = Guesses(0.5, 3, database, clock=clock)
    assert await found(guesses, "a", "known")
    assert [await found(guesses, "a", f"guess {i}") for i in range(5)] == [False] * 3 + [None] * 2
    # Neither what is valid nor what is not can be told from the answer.
    assert await found(guesses, "a", "new") is None and await found(guesses, "a", "guess 9") is None
    assert await found(guesses, "a", "known") and await found(guesses, "b", "new") is True
    assert database.asked == ["known", "guess 0", "guess 1", "guess 2", "known", "new"]
    clock.now += 1.9
    assert await found(guesses, "a", "third") is None
    clock.now += 0.2
    assert await found(guesses, "a", "third") is False and await found(guesses, "a", "fourth") is None


async def test_guesses_at_once_are_no_more_than_one_after_another():
    database = Database()
    guesses = Guesses(0.5, 3, database, clock=Clock())
    answers = await asyncio.gather(*(found(guesses, "a", f"guess {i}") for i in range(100)))
    assert answers.count(False) == len(database.asked) == 3


async def test_valid_tokens_are_no_guesses():
    database = Database(*map(str, range(50)))
    guesses = Guesses(0.5, 3, database, clock=Clock())
    assert all([await found(guesses, "a", str(i)) for i in range(50)])


async def test_a_known_token_that_is_revoked_ends_at_once_and_is_a_guess_from_then_on():
    database = Database("known")
    guesses = Guesses(0.001, 1, database, clock=Clock())
    assert await found(guesses, "a", "known")
    database.valid.clear()
    assert await found(guesses, "a", "known") is False and await found(guesses, "a", "known") is None


async def test_a_database_that_is_away_uses_up_no_guess():
    database = Database("known")
    guesses = Guesses(0.001, 1, database, clock=Clock())
    database.down = True
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await guesses.find("a", "known")
    database.down = False
    assert await found(guesses, "a", "known")


async def test_what_is_remembered_is_bounded():
    clock, database = Clock(), Database(*map(str, range(100)))
    guesses = Guesses(0.001, 1, database, clock=clock, max_known=10)
    for i in range(100):
        await guesses.find("a", str(i))
    assert len(guesses._known) == 10
    await found(guesses, "a", "guess")
    assert await found(guesses, "a", "99") and await found(guesses, "a", "5") is None
    clock.now += 13 * 3600
    guesses._rate._buckets["a"] = (0.0, clock.now)
    assert await found(guesses, "a", "99") is None


async def test_the_service_looks_up_no_more_tokens_than_it_allows_guesses(tmp_path, monkeypatch):
    async with service(tmp_path, local=False, refusals_per_second=0.1) as made:
        looked_up = []
        find = made.store.find_token

        async def counted(hashed: str):
            looked_up.append(hashed)
            return await find(hashed)

        monkeypatch.setattr(made.app.state.context.guesses, "_find", counted)
        # From one address all: a proxy, or one network of IPv6.
        client = made.client(client=("2001:db8::1", 5000))
        neighbour = made.client(client=("2001:db8::2", 5000))
        known, new = await made.token("ada"), await made.token("eve", Role.ADMIN)

        async def status(sender, token: str) -> int:
            answer = await sender.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"})
            if answer.status_code != 200:
                document = check_problem(answer, 401, 429)
                assert "valid" in document["detail"]
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        assert await status(neighbour, known) == 200
        assert [await status(client, f"earshot_{i}") for i in range(50)] == [401] + [429] * 49
        assert await status(neighbour, new) == 429 and await status(neighbour, known) == 200
        assert looked_up.count(token_hash(new)) == 0 and len(looked_up) == 3
        assert (
            "earshot_requests_refused_total 51.0"
            in (await client.get("/metrics", headers={"Authorization": f"Bearer {known}"})).text
        )
        (revoked,) = [token.id for token in await made.store.list_tokens() if token.owner == "ada"]
        await made.store.revoke_token(revoked)
        assert await status(client, known) == 401 and await status(client, known) in {401, 429}
        # Requests without a token guess nothing.
        assert {(await client.get("/v1/jobs")).status_code for _ in range(20)} == {401}
