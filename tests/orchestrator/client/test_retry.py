"""Which requests are sent again, and after how long."""

import itertools
import time

import httpx
import pytest

from orchestrator.client import ApiError, EarshotClient, UnreachableError

JOBS = {"items": [], "next_cursor": None}


def client(answers, **options):
    """A client that gets these answers in order, the last one for ever, and the times of its requests."""
    times = []

    def answer(request):
        times.append(time.monotonic())
        found = answers[min(len(times), len(answers)) - 1]
        if isinstance(found, Exception):
            raise found
        # A response is read once only.
        return found if isinstance(found, httpx.Response) else found()

    return EarshotClient("http://x", transport=httpx.MockTransport(answer), **options), times


def test_the_service_decides_when_to_try_again():
    busy = httpx.Response(429, headers={"retry-after": "1"}, json={"detail": "too many requests"})
    made, times = client([busy, httpx.Response(200, json=JOBS)], retry_seconds=10)
    assert made.jobs().items == []
    assert 1 <= times[1] - times[0] < 2


def test_delays_grow_until_the_time_for_retries_is_over():
    made, times = client([httpx.ConnectError("refused")], retry_seconds=1.5)
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="no service answers at http://x"):
        made.jobs()
    assert time.monotonic() - started < 1.5
    delays = [after - before for before, after in itertools.pairwise(times)]
    assert len(delays) >= 2
    assert 0.1 <= delays[0] < 0.3
    assert delays[-1] > delays[0]


def test_a_delay_beyond_the_time_for_retries_is_not_waited_for():
    busy = httpx.Response(503, headers={"retry-after": "60"}, json={"detail": "starting"})
    made, times = client([busy], retry_seconds=5)
    with pytest.raises(ApiError) as refused:
        made.jobs()
    assert (refused.value.status, refused.value.retry_after, len(times)) == (503, 60, 1)


@pytest.mark.parametrize(
    ("failure", "repeated"),
    [
        (httpx.ReadError("lost"), True),
        (httpx.Response(503, json={"detail": "down"}), True),
        (httpx.Response(408, json={"detail": "slow", "code": "request_too_slow"}), True),
        (httpx.Response(503, json={"detail": "busy", "code": "admission_busy"}), True),
        (httpx.Response(429, json={"detail": "the queue is full", "code": "queue_full"}), False),
        (httpx.Response(500, json={"detail": "an internal error", "code": "internal_error"}), False),
        (httpx.Response(409, json={"detail": "ended", "code": "state_conflict"}), False),
        (httpx.UnsupportedProtocol("no"), False),
    ],
    ids=str,
)
def test_a_request_is_repeated_if_that_may_help(failure, repeated):
    made, times = client([failure], retry_seconds=0.5)
    with pytest.raises((UnreachableError, ApiError)):
        made.pause("x")
    assert (len(times) > 1) is repeated


def test_without_time_for_retries_there_are_none():
    made, times = client([httpx.ConnectError("refused")], retry_seconds=0)
    with pytest.raises(UnreachableError):
        made.jobs()
    assert len(times) == 1


def test_a_stream_that_breaks_again_and_again_without_a_byte_is_given_up():
    class Broken(httpx.SyncByteStream):
        def __iter__(self):
            raise httpx.ReadError("interrupted")

    made, times = client(
        [lambda: httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Broken())], retry_seconds=0.5
    )
    with pytest.raises(UnreachableError):
        list(made.stream_logs("x"))
    assert len(times) > 1
