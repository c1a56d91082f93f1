"""A rollout worker: one engine, and the requests it answers.

Invariant: every request gets exactly one outcome, in the order of the requests: a Group, a FailedQuestion, or NoAnswer
where a retry may help. Each token names the weights it was sampled with. A worker whose engine is dead or whose weights
are undefined ends its process: otherwise it would be given requests forever.
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
from rollout_workers.errors import ClipTooShortError, NonFiniteOutputError, PromptTooLongError, UnusableOutputError
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
class _PreparedRequest:
    """A request with its prompt as the engine takes it."""

    request: RolloutRequest
    prompt: "PreparedPrompt"
    truncated_seconds: float


class RolloutWorker(PackedWorker):
    """Runs as a Ray actor (`rollout_workers.worker.handle`); its methods run concurrently on one event loop."""

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
        """Start the engine with the checkpoint's weights, version 0, and generate a token.

        Raises NonFiniteOutputError for weights that give none.
        """
        # vLLM takes seconds to import: only the actor's own process imports it. Garbage collection during the import
        # would add a sixth to that, and the imported objects are never garbage.
        gc.disable()
        from rollout_workers.engine.engine import Engine  # noqa: PLC0415

        gc.freeze()
        gc.enable()
        # On the event loop's own thread: the engine ends with the thread that starts it.
        self._engine = Engine.start(self._settings)
        await self._engine.label(0)
        async with self._exit_if_engine_dead(), asyncio.timeout(HEALTH_SECONDS):
            await self._engine.check()
        return self._status()

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        """Return one outcome for each request. Raises EngineDeadError if the engine died; then the process ends."""
        async with self._exit_if_engine_dead(), self._gate.generating():
            prepared = await asyncio.gather(*(self._prepare(r, sampling) for r in requests))
            if self._settings.whole_batches:
                return await self._generate_batch(prepared, sampling)
            return list(await asyncio.gather(*(self._generate_one(one, sampling) for one in prepared)))

    async def update(self, update: WeightUpdate) -> int:
        """Take an update from shared memory or the object store; return its version.

        Raises WeightsUnavailableError if it is not available there: then nothing has changed. Any error after the first
        byte leaves the weights undefined: it is raised, and the process ends.
        """
        async with asyncio.timeout(self._limits.update_seconds):
            if update.carrier is Carrier.SHARED_MEMORY:
                await self._subscription.take(update)
                return update.version
            # Requests continue during the fetch. The arrays are held to the end: the engine may read them in place.
            arrived = await asyncio.to_thread(fetch, update)
            async with self._one_update:
                await self.begin_update()
                async with self._exit_on_error():
                    for bucket, arrays in zip(update.buckets, arrived, strict=True):
                        await self._running.load_stored(arrays, bucket.slots)
                return await self.finish_update(update)

    async def _replace(self, announced: Announcement, path: str, placed: Sequence[PlacedTensor]) -> None:
        """Take an update that was announced on this machine."""
        async with asyncio.timeout(self._limits.update_seconds), self._one_update:
            await self.begin_update()
            async with self._exit_on_error():
                await self._running.load_placed(path, placed, Carrier.SHARED_MEMORY)
            await self.finish_update(
                WeightUpdate(announced.version, (), announced.audio_changed, 0, Carrier.SHARED_MEMORY)
            )

    async def meet(self, init_info: Mapping[str, Any]) -> None:
        """Join the learner's group, for a carrier that needs one."""
        await self._running.meet(init_info)

    async def begin_update(self) -> None:
        """Stop generation until `finish_update`: wait for running batches, or freeze the requests in flight."""
        async with AsyncExitStack() as stack:
            if self._settings.whole_batches:
                await stack.enter_async_context(self._gate.updating())
            else:
                await stack.enter_async_context(self._running.frozen())
            self._updating = True
            async with self._exit_on_error():
                await self._running.start_update()
            self._update = stack.pop_all()

    async def load(self, piece: Mapping[str, Any]) -> None:
        """Load a piece of an update that comes by another carrier."""
        async with self._exit_on_error():
            await self._running.load(piece)

    async def finish_update(self, update: WeightUpdate) -> int:
        """Put the pieces loaded since `begin_update` into effect; return the engine's version."""
        async with self._exit_on_error():
            version = await self._running.finish_update(
                update.version, audio_changed=update.audio_changed, in_flight=not self._settings.whole_batches
            )
            if version != update.version:
                raise RuntimeError(f"the engine has version {version} after an update to {update.version}")
            await self._update.aclose()
        self._version, self._updating = version, False
        return version

    async def heartbeat(self) -> WorkerStatus:
        """Return the worker's status: a sign of life of this process and, unless it takes weights, of the engine's."""
        if not self._updating:
            async with self._exit_if_engine_dead():
                await self._running.version()
        return self._status()

    async def sleep(self) -> int:
        """Free the GPUs' memory until `wake`; return the bytes that became free. After any error the process ends."""
        async with self._exit_on_error():
            return await self._running.sleep()

    async def wake(self) -> None:
        """Take the memory again; after any error the weights are undefined, and the process ends."""
        async with self._exit_on_error():
            await self._running.wake()

    async def stop(self) -> None:
        """End the engine's processes. No requests may follow."""
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

    async def _prepare(self, request: RolloutRequest, sampling: Sampling) -> _PreparedRequest | FailedQuestion:
        try:
            clip = await asyncio.to_thread(self._clip, request)
            text = render(self._running.processor, request.question, request.template)
            prompt = await self._running.prepare(text, clip.samples, sampling.max_tokens)
            truncated_seconds = max(0.0, clip.seconds - self._running.max_seconds) if clip.truncated else 0.0
            return _PreparedRequest(request, prompt, truncated_seconds)
        except (AudioError, ClipTooShortError) as error:
            reason, detail = Failure.AUDIO, str(error)
        except PromptTooLongError as error:
            reason, detail = Failure.PROMPT_TOO_LONG, str(error)
        self._requests_finished += 1
        return FailedQuestion(request.question, reason, detail, self._name)

    def _clip(self, request: RolloutRequest) -> Clip:
        # The engine caches clips by their samples, not by question or path, so a replaced clip cannot be confused.
        path = request.question.audio if request.other_clip is None else request.other_clip
        clip = load_audio(path, max_seconds=self._running.max_seconds, too_long=self._settings.too_long)
        return silence_like(clip) if request.silent else clip

    async def _generate_one(self, one: _PreparedRequest | FailedQuestion, sampling: Sampling) -> Outcome:
        if isinstance(one, FailedQuestion):
            return one
        return await self._outcome(one, await self._running.submit(one.prompt, sampling, one.request.seed), sampling)

    async def _generate_batch(
        self, prepared: Sequence[_PreparedRequest | FailedQuestion], sampling: Sampling
    ) -> list[Outcome]:
        """Submit a batch in order to a frozen engine with empty caches: the answers depend on the batch alone."""
        async with self._whole_batch:
            await self._running.reset_caches(audio_changed=True)
            async with self._running.frozen():
                tasks = {
                    i: await self._running.submit(one.prompt, sampling, one.request.seed)
                    for i, one in enumerate(prepared)
                    if isinstance(one, _PreparedRequest)
                }
            return list(
                await asyncio.gather(
                    *(
                        self._outcome(one, tasks[i], sampling) if isinstance(one, _PreparedRequest) else _return(one)
                        for i, one in enumerate(prepared)
                    )
                )
            )

    async def _outcome(self, prepared: _PreparedRequest, task: asyncio.Task[Any], sampling: Sampling) -> Outcome:
        """Wait for the engine's output, until the request's deadline."""
        seconds = self._limits.request_seconds
        try:
            async with asyncio.timeout(seconds):
                output = await task
            completions = self._running.completions(output, sampling.group_size)
        except TimeoutError:
            return NoAnswer(f"not done within {seconds:g} s")
        except NonFiniteOutputError as error:
            return NoAnswer(str(error), Failure.NONFINITE)
        except UnusableOutputError as error:
            return NoAnswer(str(error))
        self._requests_finished += 1
        self._tokens_generated += sum(len(c.token_ids) for c in completions)
        return Group(
            question=prepared.request.question,
            template=prepared.request.template,
            prompt_token_ids=prepared.prompt.token_ids,
            completions=completions,
            weight_version=min(version for c in completions for version, _ in c.versions),
            worker=self._name,
            truncated_seconds=prepared.truncated_seconds,
        )

    @asynccontextmanager
    async def _exit_on_error(self) -> AsyncIterator[None]:
        """End the process after any error inside: the weights are undefined then."""
        try:
            yield
        except BaseException:
            self._end_process()
            raise

    @asynccontextmanager
    async def _exit_if_engine_dead(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception:
            if self._engine is not None and self._engine.dead:
                self._end_process()
            raise

    def _end_process(self) -> None:
        """End this process after a short delay, in which the error reaches the caller."""
        _log.error("worker %s: the engine is dead or its weights are undefined; ending the process", self._name)
        asyncio.get_running_loop().call_later(_SECONDS_TO_REPORT, os._exit, 1)


async def _return(outcome: FailedQuestion) -> Outcome:
    return outcome
