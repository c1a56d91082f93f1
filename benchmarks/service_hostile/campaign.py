"""The campaign of two users against the service, in a process of its own."""

import asyncio
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.service_hostile.attacks import Attacker
from benchmarks.service_hostile.owners import Owner
from benchmarks.service_hostile.raw import RAW_KINDS, RawAttacker

_BUSY = {"admission_busy", "too_many_connections", "cluster_unavailable", "too_many_streams", "request_in_progress"}
"""Codes of 503 that are documented as a reason to wait."""


@dataclass(slots=True)
class Findings:
    """The answers that the attackers got."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    busy: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    """Server errors that are not documented as back-pressure."""
    leaks: list[str] = field(default_factory=list)
    """Responses with data of the other user."""
    per_second: float = 0.0
    """Requests sent per second."""

    def add(self, kind: str, answer: bytes, other: Owner) -> None:
        """Add one response, of which nothing may have arrived."""
        status = answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/1.1 ") else "none"
        self.statuses.setdefault(kind, Counter())[status] += 1
        if status.startswith("5"):
            code = next((code for code in _BUSY if f'"{code}"'.encode() in answer), None)
            if code is None:
                self.errors.append(f"{kind}: {answer[:500]!r}")
            else:
                self.busy[code] += 1
        if any(canary.encode() in answer for canary in other.canaries):
            self.leaks.append(f"{kind}: {answer[:500]!r}")


def run_campaign(owners: tuple[Owner, Owner], traps: list[list[str]], port: int, count: int, rate: float) -> Findings:
    """Send hostile requests, in a process of its own that leaves the cores to the service: attackers have others."""
    os.nice(10)
    return asyncio.run(_attack(owners, traps, port, count, rate))


async def _attack(owners: tuple[Owner, Owner], traps: list[list[str]], port: int, count: int, rate: float) -> Findings:
    """Send hostile requests when they are due."""
    findings = Findings()
    attackers = []
    for seed, (me, other) in enumerate([owners, owners[::-1]]):
        chance = random.Random(seed)
        attackers.append((Attacker(chance, me, other, traps[seed]), RawAttacker(chance, me, port), me, other))
    room = asyncio.Semaphore(600)
    tasks: set[asyncio.Task[None]] = set()
    start = time.perf_counter()

    async def one(number: int) -> None:
        attacker, raw, me, other = attackers[number % 2]
        try:
            if number % 20 < 2:
                kind = RAW_KINDS[number // 20 % len(RAW_KINDS)]
                findings.add(kind, await raw.send(kind), other)
            else:
                attempt = attacker.attempt()
                findings.add(attempt.kind, await raw.exchange([attempt.wire(me.token)], 40), other)
        finally:
            room.release()

    for number in range(count):
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        await room.acquire()
        task = asyncio.create_task(one(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    findings.per_second = count / (time.perf_counter() - start)
    await asyncio.gather(*tasks)
    return findings
