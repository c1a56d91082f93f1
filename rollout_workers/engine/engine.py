"""One vLLM engine, and all calls to vLLM that a worker makes.

Seeds: vLLM samples a group's completions with G consecutive seeds, starting at the request's. To keep groups with
neighbouring seeds from sharing any, a request's seed is hashed first: the start depends on every bit of it. Nothing
else decides a sample: neither the batch, nor the worker, nor the order of requests.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from vllm import SamplingParams
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from audio_qa.chat import render, stop_token_ids
from audio_qa.errors import shown
from audio_qa.families import FamilyFacts, facts_of
from audio_qa.processor import load_processor
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.announcement import PlacedTensor
from protocol.rollout import Completion, Sampling, StopReason, WorkerSettings
from protocol.weights import Carrier, TensorSlot
from rollout_workers.engine.config import engine_args, engine_environment
from rollout_workers.engine.gpu_memory import METHOD, GpuMemory, freed_bytes
from rollout_workers.engine.models import adapt
from rollout_workers.engine.segment import Arrays, shared
from rollout_workers.errors import (
    ClipTooShortError,
    MemoryNotFreedError,
    NonFiniteOutputError,
    PromptTooLongError,
    UnusableOutputError,
)

_SHUTDOWN_SECONDS = 10.0
_CHECK_SAMPLES = 3200
"""Length of the clip that a new engine is checked with: two or more audio tokens in every family."""


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt as the engine takes it."""

    token_ids: tuple[int, ...]
    """The P prompt tokens, with the audio placeholder expanded."""
    engine_input: Any


class Engine:
    """A running vLLM engine in its own processes, which end with this one."""

    def __init__(self, llm: AsyncLLM, settings: WorkerSettings, processor: Any, facts: FamilyFacts) -> None:
        self.processor = processor
        self.max_seconds = facts.max_clip_seconds(processor.feature_extractor)
        """Length of the longest clip that the model takes, in seconds."""
        self.stop_token_ids = stop_token_ids(settings.model, processor.tokenizer)
        self._llm, self._facts = llm, facts
        self._model, self._max_context = settings.model, settings.max_context
        self._can_sleep = settings.shares_gpu and not current_platform.is_cpu()
        self._requests = 0

    @classmethod
    def start(cls, settings: WorkerSettings) -> Self:
        """Start the engine and load the model, which blocks for ten seconds or more.

        Call it in a thread that lives as long as the process: the engine is killed when that thread ends.
        """
        processor, facts = load_processor(settings.model), facts_of(settings.model)
        adapt()
        with engine_environment(settings):
            llm = AsyncLLM.from_engine_args(engine_args(settings, processor, facts))
        return cls(llm, settings, processor, facts)

    async def prepare(self, prompt_text: str, samples: npt.NDArray[np.float32], max_tokens: int) -> PreparedPrompt:
        """Tokenise a prompt that holds one unexpanded audio placeholder; `samples` are (N,) mono at 16 kHz.

        Raises PromptTooLongError and ClipTooShortError, before anything is sent to the engine.
        """
        if problem := self._facts.too_short(len(samples), self.processor.feature_extractor.hop_length):
            raise ClipTooShortError(problem)
        text_ids = self.processor.tokenizer(prompt_text)["input_ids"]
        # Before vLLM gets the text: its error for a longer one has no type of its own.
        self._check_length(len(text_ids), max_tokens)
        prompt = {"prompt_token_ids": text_ids, "multi_modal_data": {"audio": samples}}
        (engine_input,) = await self._llm.renderer.render_cmpl_async([prompt])
        token_ids = tuple(engine_input["prompt_token_ids"])
        self._check_length(len(token_ids), max_tokens)
        return PreparedPrompt(token_ids, engine_input)

    def _check_length(self, prompt_tokens: int, max_tokens: int) -> None:
        if prompt_tokens + max_tokens > self._max_context:
            raise PromptTooLongError(
                f"{prompt_tokens} prompt tokens and a completion of up to {max_tokens} do not fit into "
                f"{self._max_context}; shorten the question or raise the context"
            )

    async def submit(self, prompt: PreparedPrompt, sampling: Sampling, seed: int) -> asyncio.Task[Any]:
        """Submit a prompt to the engine; the task returns vLLM's output, for `completions`.

        If the task is cancelled, the engine stops working on it.
        """
        self._requests += 1
        request_id = str(self._requests)
        params = SamplingParams(
            n=sampling.group_size,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=None if sampling.temperature == 0 else first_seed(seed),
            stop_token_ids=list(self.stop_token_ids),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        collector = await self._llm.add_request(request_id, prompt.engine_input, params)
        return asyncio.create_task(self._result(request_id, collector))

    async def _result(self, request_id: str, collector: Any) -> Any:
        try:
            return await collector.get()
        except asyncio.CancelledError:
            await self._llm.abort(request_id)
            raise

    def completions(self, output: Any, group_size: int) -> tuple[Completion, ...]:
        """Return the G completions in `output`.

        Raises UnusableOutputError if some are missing or incomplete, NonFiniteOutputError for log-probabilities that
        are not finite.
        """
        if len(output.outputs) != group_size:
            raise UnusableOutputError(f"the engine returned {len(output.outputs)} completions instead of {group_size}")
        return tuple(self._completion(one) for one in output.outputs)

    def _completion(self, output: Any) -> Completion:
        token_ids = tuple(output.token_ids)
        if output.finish_reason not in ("stop", "length") or not token_ids or len(output.logprobs) != len(token_ids):
            raise UnusableOutputError(f"unusable output of the engine: {shown(output)}")
        logprobs = tuple(step[token].logprob for step, token in zip(output.logprobs, token_ids, strict=True))
        if not all(map(math.isfinite, logprobs)):
            place, value = next((i, p) for i, p in enumerate(logprobs, start=1) if not math.isfinite(p))
            used = ", ".join(dict.fromkeys(str(span.version) for span in output.weight_versions or ())) or "unknown"
            raise NonFiniteOutputError(
                f"model {self._model!r}, weight version {used}: the log-probability of token {place} of {len(logprobs)}"
                f" is {value}, not finite: weights are NaN or infinite, or numbers are too large for their type"
            )
        versions = tuple((int(span.version), span.end - span.start) for span in output.weight_versions or ())
        if sum(tokens for _, tokens in versions) != len(token_ids):
            raise UnusableOutputError(
                f"the weight versions of {len(token_ids)} tokens are unknown: {output.weight_versions}"
            )
        return Completion(
            token_ids=token_ids,
            logprobs=logprobs,
            text=self.processor.tokenizer.decode(token_ids, skip_special_tokens=True),
            stop_reason=StopReason.STOP if token_ids[-1] in self.stop_token_ids else StopReason.LENGTH,
            versions=versions,
        )

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Freeze the engine inside the block: submitted requests wait, running requests stop."""
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        try:
            yield
        finally:
            await self._llm.resume_generation()

    async def meet(self, init_info: Mapping[str, Any]) -> None:
        """Join the learner's group, for a carrier that needs one."""
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=dict(init_info)))

    async def start_update(self) -> None:
        """Start to replace weights. No request may be computed until `finish_update`."""
        await self._llm.start_weight_update()

    async def load_stored(self, arrays: Arrays, slots: Sequence[TensorSlot]) -> None:
        """Load one bucket: an array of bytes for each slot, which must be kept until `finish_update` has returned."""
        with shared(arrays) as (path, offsets):
            placed = [PlacedTensor(slot, offset) for slot, offset in zip(slots, offsets, strict=True)]
            await self.load_placed(path, placed, Carrier.OBJECT_STORE)

    async def load_placed(self, path: str, placed: Sequence[PlacedTensor], carrier: Carrier) -> None:
        """Load parameters from a file, which must not change until `finish_update` has returned."""
        described = [(p.slot.name, p.slot.dtype, list(p.slot.shape), p.offset) for p in placed]
        digests = {p.slot.name: p.slot.digest for p in placed if p.slot.digest is not None}
        await self.load({"carrier": carrier.value, "info": {"path": path, "slots": described}, "digests": digests})

    async def load(self, piece: Mapping[str, Any]) -> None:
        """Load a piece of an update: see `rollout_workers.engine.transfer.UpdateInfo`."""
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info=dict(piece)))

    async def finish_update(self, version: int, *, audio_changed: bool, in_flight: bool) -> int:
        """Put the update into effect; return the version that the engine reports.

        Args:
            in_flight: the engine is paused with unfinished requests: their keys and values so far are computed again
                with the new weights before they continue.
        """
        await self._llm.finish_weight_update(str(version))
        await self.reset_caches(audio_changed=audio_changed, in_flight=in_flight)
        return await self.version()

    async def reset_caches(self, *, audio_changed: bool, in_flight: bool = False) -> None:
        """Drop results of the old weights: keys and values always, the embeddings of clips if the audio part changed.

        Features of clips do not depend on weights, and they are not cached (see `engine.config`).
        """
        if not await self._llm.reset_prefix_cache(reset_running_requests=in_flight):
            raise RuntimeError("the prefix cache is in use: a request is running")
        if audio_changed:
            await self._llm.reset_encoder_cache()

    async def label(self, version: int) -> None:
        """Set the version of the engine's weights."""
        await self._llm.update_weight_version(str(version))

    async def version(self) -> int:
        """Return the weight version, from the engine's own process: it answers between two steps."""
        return int(await self._llm.get_weight_version())

    async def sleep(self) -> int:
        """Free the GPUs' memory, once running requests have ended; return the number of bytes that became free.

        Weights move to the CPU, and the key-value cache is dropped. (At vLLM's level 2 they are dropped, too; but an
        update sends trained parameters only, and a step without an update sends none.) CUDA's context, captured graphs
        and NCCL's buffers stay on the GPU.

        Raises MemoryNotFreedError.
        """
        if not self._can_sleep:
            raise MemoryNotFreedError(
                "an engine that was started without sleep mode frees no memory: it shares no GPU with the learner, or "
                "runs on a CPU"
            )
        before = await self._gpu_memory()
        await self._llm.sleep(level=1, mode="wait")
        return freed_bytes(before, await self._gpu_memory())

    async def wake(self) -> None:
        """Take the memory again. There must be as much free memory as `sleep` has freed."""
        if not await self._llm.wake_up():
            raise RuntimeError("the engine was woken and still sleeps")

    async def _gpu_memory(self) -> list[GpuMemory]:
        return [GpuMemory(*fields) for fields in await self._llm.collective_rpc(METHOD)]

    async def check(self) -> None:
        """Generate one token about a short silence, with every part of the model. Raises UnusableOutputError."""
        text = render(self.processor, Question("check", 0, "check", "", "?", ("a", "b"), ""), PromptTemplate.PLAIN)
        silence = np.zeros(_CHECK_SAMPLES, np.float32)
        one_token = Sampling(group_size=1, max_tokens=1, temperature=0.0)
        task = await self.submit(await self.prepare(text, silence, one_token.max_tokens), one_token, seed=0)
        self.completions(await task, one_token.group_size)

    def shutdown(self) -> None:
        """End the engine's processes."""
        # On the CPU nothing has to be released, and a graceful end takes five seconds of computation.
        self._llm.shutdown(timeout=0.0 if current_platform.is_cpu() else _SHUTDOWN_SECONDS)

    @property
    def sequences(self) -> int:
        """Number of unfinished completions."""
        return int(self._llm.get_num_unfinished_requests())

    @property
    def dead(self) -> bool:
        """True if the engine's process has died."""
        return bool(self._llm.errored)


def first_seed(seed: int) -> int:
    """Return the first of a group's G consecutive seeds.

    vLLM gives completion i the seed `first_seed + i`. There are 2^62 starts; the CPU's generator uses 32 bits, so among
    a million groups of 8, about one in 300 shares a seed with another by chance.
    """
    return int.from_bytes(blake2b(str(seed).encode(), digest_size=8).digest()) >> 2
