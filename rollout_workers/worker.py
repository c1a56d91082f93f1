"""A rollout worker: one engine, and the questions it is asked.

Invariant: every request gets exactly one answer, a Group or a FailedQuestion, in the order asked; and all completions
of a group were made with the weight version it names. A worker that cannot keep this raises, and when its engine is
dead or its weights are undefined, its process ends: Ray would otherwise hand work to it for ever.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from audio_qa.audio import AudioError, Clip, load_audio, silence_like
from audio_qa.chat import render
from protocol.rollout import (
    FailedQuestion,
    Failure,
    Group,
    RolloutRequest,
    Sampling,
    WorkerSettings,
    WorkerStatus,
)
from protocol.weights import Bucket, WeightUpdate
from rollout_workers import deadlines
from rollout_workers.errors import ClipTooShortError, PromptTooLongError
from rollout_workers.gate import Gate

if TYPE_CHECKING:
    from rollout_workers.engine import Engine, PreparedPrompt

_SECONDS_TO_REPORT = 1.0

_log = logging.getLogger(__name__)

Answer = Group | FailedQuestion


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose prompt is ready."""

    request: RolloutRequest
    prompt: "PreparedPrompt"
    truncated_seconds: float


class RolloutWorker:
    """Made a Ray actor by `rollout_workers.pool`; its methods run concurrently on one event loop."""

    def __init__(self, name: str, settings: WorkerSettings) -> None:
        self._name = name
        self._settings = settings
        self._gate = Gate()
        self._whole_batch = asyncio.Lock()
        self._version = 0
        self._tokens_generated = 0
        self._requests_finished = 0
        self._engine: Engine | None = None

    async def start(self) -> WorkerStatus:
        """Start the engine with the checkpoint's weights, version 0, and generate a token with it."""
        # vLLM takes seconds to import: only the actor's own process does.
        from rollout_workers.engine import Engine  # noqa: PLC0415

        # On the event loop's own thread: the engine is tied to the life of the thread that starts it.
        self._engine = Engine.start(self._settings)
        await self.health()
        return await self.status()

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Answer]:
        """Answer a batch. Raises TimeoutError, and vLLM's EngineDeadError if the engine died: then the process ends."""
        async with self._fatal_if_dead(), asyncio.timeout(deadlines.GENERATE), self._gate.generating():
            prepared = await asyncio.gather(*(self._prepare(r, sampling) for r in requests))
            if self._settings.whole_batches:
                return await self._ask_at_once(prepared, sampling)
            return list(await asyncio.gather(*(self._ask(one, sampling) for one in prepared)))

    async def update(self, update: WeightUpdate) -> int:
        """Replace the parameters in `update` once running batches have ended; returns the version, for checking.

        Whatever goes wrong after the first byte leaves weights undefined: the error is raised and the process ends.
        """
        async with asyncio.timeout(deadlines.UPDATE), self._gate.updating():
            try:
                await self._running.start_update()
                for bucket in update.buckets:
                    await self._load(bucket)
                version = await self._running.finish_update(update.version, audio_changed=update.audio_changed)
                if version != update.version:
                    raise RuntimeError(f"the engine has version {version} after an update to {update.version}")
            except BaseException:
                self._end_process()
                raise
            self._version = version
            return version

    async def status(self) -> WorkerStatus:
        return WorkerStatus(
            worker=self._name,
            pid=os.getpid(),
            node=ray.get_runtime_context().get_node_id() if ray.is_initialized() else "",
            weight_version=self._version,
            tokens_generated=self._tokens_generated,
            requests_finished=self._requests_finished,
        )

    async def health(self) -> None:
        """Generate one token. Raises as `generate` does.

        While a whole batch or an update has the engine to itself nothing is asked: their own deadlines watch it.
        """
        if self._gate.closed or self._whole_batch.locked():
            return
        async with self._fatal_if_dead(), asyncio.timeout(deadlines.HEALTH), self._gate.generating(), self._whole_batch:
            await self._running.check()

    async def stop(self) -> None:
        """End the engine's processes. Nothing may be asked afterwards."""
        engine, self._engine = self._running, None
        await asyncio.to_thread(engine.shutdown)

    @property
    def _running(self) -> "Engine":
        if self._engine is None:
            raise RuntimeError(f"worker {self._name} has no engine: it was not started or it was stopped")
        return self._engine

    async def _prepare(self, request: RolloutRequest, sampling: Sampling) -> _Asked | FailedQuestion:
        try:
            clip = await asyncio.to_thread(self._clip, request)
            text = render(self._running.processor, request.question, request.template)
            prompt = await self._running.prepare(text, clip.samples, sampling.max_tokens)
            cut = max(0.0, clip.seconds - self._running.max_seconds) if clip.truncated else 0.0
            return _Asked(request, prompt, cut)
        except (AudioError, ClipTooShortError) as error:
            reason, detail = Failure.AUDIO, str(error)
        except PromptTooLongError as error:
            reason, detail = Failure.PROMPT_TOO_LONG, str(error)
        self._requests_finished += 1
        return FailedQuestion(request.question, reason, detail, self._name)

    def _clip(self, request: RolloutRequest) -> Clip:
        clip = load_audio(
            request.question.audio, max_seconds=self._running.max_seconds, too_long=self._settings.too_long
        )
        return silence_like(clip) if request.silent else clip

    async def _ask(self, one: _Asked | FailedQuestion, sampling: Sampling) -> Answer:
        if isinstance(one, FailedQuestion):
            return one
        return self._group(one, await (await self._running.submit(one.prompt, sampling, one.request.seed)))

    async def _ask_at_once(self, prepared: Sequence[_Asked | FailedQuestion], sampling: Sampling) -> list[Answer]:
        """Ask in order, of an engine that is frozen and remembers nothing: the answers depend on the batch alone."""
        async with self._whole_batch:
            await self._running.reset_caches(audio_changed=True)
            await self._running.pause()
            try:
                tasks = {
                    i: await self._running.submit(one.prompt, sampling, one.request.seed)
                    for i, one in enumerate(prepared)
                    if isinstance(one, _Asked)
                }
            finally:
                await self._running.resume()
            return [
                self._group(one, await tasks[i]) if isinstance(one, _Asked) else one for i, one in enumerate(prepared)
            ]

    def _group(self, asked: _Asked, output: Any) -> Group:
        completions = self._running.completions(output)
        self._requests_finished += 1
        self._tokens_generated += sum(len(c.token_ids) for c in completions)
        return Group(
            question=asked.request.question,
            template=asked.request.template,
            prompt_token_ids=asked.prompt.token_ids,
            completions=completions,
            weight_version=self._version,
            worker=self._name,
            truncated_seconds=asked.truncated_seconds,
        )

    async def _load(self, bucket: Bucket) -> None:
        # The reference is nested in the message, so Ray has not resolved it; the array is a view of Ray's store.
        data = await asyncio.to_thread(ray.get, bucket.data, timeout=deadlines.FETCH)
        await self._running.load(np.asarray(data), bucket.slots)

    @asynccontextmanager
    async def _fatal_if_dead(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception:
            if self._engine is not None and self._engine.dead:
                self._end_process()
            raise

    def _end_process(self) -> None:
        """End this process once the error on its way to the caller has had the time to leave."""
        _log.error("worker %s: the engine is dead or its weights are undefined; ending the process", self._name)
        asyncio.get_running_loop().call_later(_SECONDS_TO_REPORT, os._exit, 1)
