"""A rollout worker: one engine, and the questions it is asked.

Invariant: every request gets exactly one outcome, in the order asked: a Group, a FailedQuestion, or NoAnswer where
asking again may help. Each token names the weights it was sampled with. A worker whose engine is dead or whose weights
are undefined ends its process: Ray would otherwise hand work to it for ever.
"""

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from audio_qa.audio import AudioError, Clip, load_audio, silence_like
from audio_qa.chat import render
from protocol.announcement import Announcement, PlacedTensor
from protocol.rollout import (
    FailedQuestion,
    Failure,
    Group,
    NoAnswer,
    RolloutRequest,
    Sampling,
    WorkerSettings,
    WorkerStatus,
)
from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import ClipTooShortError, PromptTooLongError, UnusableOutputError
from rollout_workers.limits import HEALTH_SECONDS, RolloutLimits
from rollout_workers.packed import Outcome, PackedWorker
from rollout_workers.worker.gate import EngineGate
from rollout_workers.worker.stored import fetch
from rollout_workers.worker.subscription import Subscription

if TYPE_CHECKING:
    from rollout_workers.engine.engine import Engine, PreparedPrompt

_SECONDS_TO_REPORT = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose prompt is ready."""

    request: RolloutRequest
    prompt: "PreparedPrompt"
    truncated_seconds: float


class RolloutWorker(PackedWorker):
    """Made a Ray actor by `rollout_workers.worker.handle`; its methods run concurrently on one event loop."""

    def __init__(self, name: str, settings: WorkerSettings, limits: RolloutLimits) -> None:
        self._name, self._settings, self._limits = name, settings, limits
        self._gate = EngineGate()
        self._whole_batch = asyncio.Lock()
        self._subscription = Subscription(name, self._replace)
        self._one_update = asyncio.Lock()
        self._update = AsyncExitStack()
        self._updating = False
        self._version = 0
        self._tokens_generated = 0
        self._requests_finished = 0
        self._engine: Engine | None = None

    async def start(self) -> WorkerStatus:
        """Start the engine with the checkpoint's weights, version 0, and generate a token with it."""
        # vLLM takes seconds to import: only the actor's own process does. Looking for garbage meanwhile would take a
        # sixth of that, and what was imported is no garbage later either.
        gc.disable()
        from rollout_workers.engine.engine import Engine  # noqa: PLC0415

        gc.freeze()
        gc.enable()
        # On the event loop's own thread: the engine is tied to the life of the thread that starts it.
        self._engine = Engine.start(self._settings)
        await self._engine.label(0)
        async with self._fatal_if_dead(), asyncio.timeout(HEALTH_SECONDS):
            await self._engine.check()
        return self._status()

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        """Answer some requests. Raises vLLM's EngineDeadError if the engine died: then the process ends."""
        async with self._fatal_if_dead(), self._gate.generating():
            prepared = await asyncio.gather(*(self._prepare(r, sampling) for r in requests))
            if self._settings.whole_batches:
                return await self._ask_at_once(prepared, sampling)
            return list(await asyncio.gather(*(self._ask(one, sampling) for one in prepared)))

    async def update(self, update: WeightUpdate) -> int:
        """Take an update from shared memory or the object store; returns the version, for checking.

        Raises WeightsUnavailableError where it cannot be had there: then nothing has changed. Whatever goes wrong after
        the first byte leaves weights undefined: the error is raised and the process ends.
        """
        async with asyncio.timeout(self._limits.update_seconds):
            if update.carrier is Carrier.SHARED_MEMORY:
                await self._subscription.take(update)
                return update.version
            # Requests go on meanwhile. The arrays are held until the end: the engine may read them in place.
            arrived = await asyncio.to_thread(fetch, update)
            async with self._one_update:
                await self.begin_update()
                async with self._fatal():
                    for bucket, arrays in zip(update.buckets, arrived, strict=True):
                        await self._running.load_stored(arrays, bucket.slots)
                return await self.finish_update(update)

    async def _replace(self, announced: Announcement, path: str, placed: Sequence[PlacedTensor]) -> None:
        """Take an update that has been announced on this machine."""
        async with asyncio.timeout(self._limits.update_seconds), self._one_update:
            await self.begin_update()
            async with self._fatal():
                await self._running.load_placed(path, placed, Carrier.SHARED_MEMORY)
            await self.finish_update(
                WeightUpdate(announced.version, (), announced.audio_changed, 0, Carrier.SHARED_MEMORY)
            )

    async def meet(self, init_info: Mapping[str, Any]) -> None:
        """Meet the learner, for a carrier of weights that needs it."""
        await self._running.meet(init_info)

    async def begin_update(self) -> None:
        """Have the engine to itself until `finish_update`: once running batches have ended, or with requests frozen."""
        async with AsyncExitStack() as stack:
            if self._settings.whole_batches:
                await stack.enter_async_context(self._gate.updating())
            else:
                await stack.enter_async_context(self._running.frozen())
            self._updating = True
            async with self._fatal():
                await self._running.start_update()
            self._update = stack.pop_all()

    async def load(self, piece: Mapping[str, Any]) -> None:
        """Load a piece of an update that another carrier brings."""
        async with self._fatal():
            await self._running.load(piece)

    async def finish_update(self, update: WeightUpdate) -> int:
        """Put into effect what was loaded since `begin_update`."""
        async with self._fatal():
            version = await self._running.finish_update(
                update.version, audio_changed=update.audio_changed, in_flight=not self._settings.whole_batches
            )
            if version != update.version:
                raise RuntimeError(f"the engine has version {version} after an update to {update.version}")
            await self._update.aclose()
        self._version, self._updating = version, False
        return version

    async def heartbeat(self) -> WorkerStatus:
        """A sign of life of this process and, unless it is taking weights, of the engine's."""
        if not self._updating:
            async with self._fatal_if_dead():
                await self._running.version()
        return self._status()

    async def rest(self) -> None:
        """Give the GPU's memory to whoever shares it, until `wake`; requests end first."""
        await self._running.sleep()

    async def wake(self) -> None:
        await self._running.wake()

    async def stop(self) -> None:
        """End the engine's processes. Nothing may be asked afterwards."""
        self._subscription.close()
        engine, self._engine = self._running, None
        await asyncio.to_thread(engine.shutdown)

    def _status(self) -> WorkerStatus:
        return WorkerStatus(
            worker=self._name,
            pid=os.getpid(),
            node=ray.get_runtime_context().get_node_id() if ray.is_initialized() else "",
            weight_version=self._version,
            tokens_generated=self._tokens_generated,
            requests_finished=self._requests_finished,
            sequences=self._running.sequences,
        )

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
        # The engine knows a clip by its samples, not by its question or path: what it remembers of one is of no other.
        heard = request.question.audio if request.other_clip is None else request.other_clip
        clip = load_audio(heard, max_seconds=self._running.max_seconds, too_long=self._settings.too_long)
        return silence_like(clip) if request.silent else clip

    async def _ask(self, one: _Asked | FailedQuestion, sampling: Sampling) -> Outcome:
        if isinstance(one, FailedQuestion):
            return one
        return await self._outcome(one, await self._running.submit(one.prompt, sampling, one.request.seed), sampling)

    async def _ask_at_once(self, prepared: Sequence[_Asked | FailedQuestion], sampling: Sampling) -> list[Outcome]:
        """Ask in order, of an engine that is frozen and remembers nothing: the answers depend on the batch alone."""
        async with self._whole_batch:
            await self._running.reset_caches(audio_changed=True)
            async with self._running.frozen():
                tasks = {
                    i: await self._running.submit(one.prompt, sampling, one.request.seed)
                    for i, one in enumerate(prepared)
                    if isinstance(one, _Asked)
                }
            return list(
                await asyncio.gather(
                    *(
                        self._outcome(one, tasks[i], sampling) if isinstance(one, _Asked) else _already(one)
                        for i, one in enumerate(prepared)
                    )
                )
            )

    async def _outcome(self, asked: _Asked, task: asyncio.Task[Any], sampling: Sampling) -> Outcome:
        """Wait for the engine's output, but not for ever."""
        seconds = self._limits.request_seconds
        try:
            async with asyncio.timeout(seconds):
                output = await task
            completions = self._running.completions(output, sampling.group_size)
        except TimeoutError:
            return NoAnswer(f"not done within {seconds:g} s")
        except UnusableOutputError as error:
            return NoAnswer(str(error))
        self._requests_finished += 1
        self._tokens_generated += sum(len(c.token_ids) for c in completions)
        return Group(
            question=asked.request.question,
            template=asked.request.template,
            prompt_token_ids=asked.prompt.token_ids,
            completions=completions,
            weight_version=min(version for c in completions for version, _ in c.versions),
            worker=self._name,
            truncated_seconds=asked.truncated_seconds,
        )

    @asynccontextmanager
    async def _fatal(self) -> AsyncIterator[None]:
        """Whatever goes wrong inside ends the process: the weights are undefined."""
        try:
            yield
        except BaseException:
            self._end_process()
            raise

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


async def _already(outcome: FailedQuestion) -> Outcome:
    return outcome
