"""One learner process.

Invariant: every rank is called with the same batch in the same order, and holds the same parameters after each call.
Each rank reads the clips of its questions itself; audio is never sent.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch

from audio_qa.audio import AudioError, TooLong
from audio_qa.chat import banned_token_ids, stop_token_ids
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.checkpoint.checkpoint import CheckpointWriter, SavedState, snapshot
from learner.checkpoint.reading import check_checkpoint
from learner.checkpoint.source import SourceFiles
from learner.families.family import Part
from learner.families.registry import family_of
from learner.messages import BatchCounts, NumberedBucket, PhaseSettings, StepStats
from learner.model.audio_cache import AudioCache
from learner.model.flops import DecoderFlops
from learner.model.loading import compile_layers, load_model, load_processor
from learner.model.lora import add_adapters, freeze, is_trainable
from learner.model.packing import EncodedPrompt
from learner.model.policy import Policy
from learner.model.prompts import PromptEncoder, PromptMismatchError
from learner.settings import LearnerSettings
from learner.training.engine import TrainingEngine, join, release_cached_memory, shut_down
from learner.training.trainer import Trainer
from learner.weight_sync.publish import changes_audio, publish, trainable_weights
from learner.weight_sync.shared_memory import SharedMemoryPublisher, gather
from protocol.training import SupervisedExample, TrainingGroup
from protocol.weights import TensorSlot, WeightUpdate

if TYPE_CHECKING:
    from learner.weight_sync.gpu_transfer import WeightSender


class LearnerRank:
    """Rank `rank` of `ranks`. `learner.actor` runs it in its own process."""

    def __init__(self, rank: int, ranks: int, settings: LearnerSettings, too_long: TooLong = "refuse") -> None:
        self._rank, self._ranks, self._settings, self._too_long = rank, ranks, settings, too_long
        torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // ranks))
        self._writer = CheckpointWriter()
        self._engine: TrainingEngine | None = None
        self._sender: WeightSender | None = None
        self._shared: SharedMemoryPublisher | None = None
        self._prepared: dict[tuple[str, PromptTemplate], EncodedPrompt] = {}

    def address(self) -> tuple[str, int]:
        """Return this host and a free port for the ranks to connect to."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def file_visible(self, file: str) -> tuple[bool, str]:
        """Return whether a file exists on this node, and the node's address."""
        return Path(file).is_file(), ray.util.get_node_ip_address()

    def join(self, address: str, port: int) -> None:
        """Join the other ranks. Returns once all have joined."""
        settings = self._settings
        # A rank also waits in collectives for one that reads a model or a checkpoint more slowly.
        join(self._rank, self._ranks, address, port, max(settings.timeout_seconds, settings.start_seconds))

    def start_phase(self, folder: str, phase: PhaseSettings, resume: str | None = None) -> None:
        """Load the checkpoint in `folder` and start a phase from it.

        Args:
            resume: a checkpoint of the same phase, to resume from its training state.

        Raises:
            ModelError: the checkpoint is incomplete.
            CheckpointError: the training state does not match the job.
        """
        self._end_phase()
        settings = self._settings
        self._family, self._processor = family_of(folder), load_processor(folder)
        self._prompts = PromptEncoder(self._family, self._processor, too_long=self._too_long)
        self._source = SourceFiles.read(folder)
        self._model = load_model(self._family, folder, settings.dtype)
        freeze(self._family, self._model, settings.train)
        if settings.lora is not None:
            with torch.random.fork_rng(devices=[]):
                # All ranks start from the same adapters.
                torch.manual_seed(0)
                add_adapters(self._family, self._model, settings.lora, settings.train)
        if settings.activation_checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
        saved = None
        if resume is not None:
            saved = SavedState(Path(resume))
            saved.check(self._model)
        if settings.compile:
            compile_layers(self._family, self._model)
        cost = DecoderFlops.of(self._family.decoder(self._model))
        vocabulary = self._family.vocabulary_size(self._model)
        self._stops = stop_token_ids(folder, self._processor.tokenizer)
        banned = banned_token_ids(self._processor.tokenizer, vocabulary, self._stops)
        audio_cache = None
        if not is_trainable(settings.train, Part.AUDIO_TOWER):
            in_step = settings.zero_stage == 3 and self._ranks > 1
            tower = self._family.tower(self._model)
            audio_cache = AudioCache.of_tower(tower, settings.audio_cache, synchronized=in_step)
        policy = Policy(
            self._family, self._model, banned=banned, temperature=phase.temperature, audio_cache=audio_cache
        )
        reference = None
        if phase.beta > 0 and settings.lora is None:
            frozen = load_model(self._family, folder, settings.dtype).eval().requires_grad_(False)
            if settings.compile:
                compile_layers(self._family, frozen)
            # Policy and reference have the same frozen tower, so they share the cache.
            tower = self._family.tower(frozen)
            shared = audio_cache or AudioCache.of_tower(tower, settings.audio_cache, synchronized=False)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            reference = Policy(self._family, frozen, banned=banned, temperature=phase.temperature, audio_cache=shared)
            reference = reference.to(device)
        self._engine = TrainingEngine(policy, settings, phase.optimizer, phase.total_steps)
        self._trainer = Trainer(policy, reference, self._engine, settings, phase, cost)
        if saved is not None:
            saved.restore(self._engine, self._model)

    def _end_phase(self) -> None:
        """Free the memory of a phase's model and optimizer for the next phase."""
        # The sender holds the old model's weights: its group has to be joined again.
        self._close_sender()
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            del self._model, self._trainer
            release_cached_memory()

    @property
    def engine(self) -> TrainingEngine:
        if self._engine is None:
            raise RuntimeError("the learner was called before the start of a phase")
        return self._engine

    def prepare(self, prompts: Sequence[tuple[Question, PromptTemplate]]) -> dict[int, str]:
        """Read the clips and prompts of a batch before its step.

        Returns:
            The reason per index of `prompts` that cannot be read. The step must leave those out, on all ranks.
        """
        self._prepared.clear()
        unreadable: dict[int, str] = {}
        for i, (question, template) in enumerate(prompts):
            try:
                self._encoded(question, template)
            except AudioError as error:
                unreadable[i] = str(error)
        return unreadable

    def learn(self, groups: Sequence[TrainingGroup], counts: BatchCounts) -> StepStats:
        """Make the updates of one batch of reinforcement learning.

        Args:
            groups: the whole batch; this rank computes its share.
            counts: denominators of the loss.

        Raises:
            PromptMismatchError: the rollout worker encoded a prompt differently than the learner.
            BatchTooLargeError: a micro-batch does not fit into memory.
        """
        return self._trainer.reinforce(self._checked_prompts(groups), groups, counts)

    def give_memory_back(self) -> int:
        """Return GPU memory that this rank does not use at the moment to the GPU's other processes: their bytes."""
        return release_cached_memory()

    def skip(self, steps: int) -> None:
        """Advance the schedule by steps without an update."""
        for _ in range(steps):
            self.engine.skip()

    def supervise(self, examples: Sequence[SupervisedExample]) -> StepStats:
        """Take one supervised step: cross entropy of the targets and their stop token, averaged over tokens."""
        tokenizer = self._processor.tokenizer
        stop = (tokenizer.eos_token_id,)
        prompts = [self._encoded(e.question, e.template) for e in examples]
        targets = [(*tokenizer(e.target, add_special_tokens=False)["input_ids"], *stop) for e in examples]
        return self._trainer.supervise(prompts, targets)

    def score(self, groups: Sequence[TrainingGroup]) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of every completion, in order, without an update."""
        completions = [[c.token_ids for c in g.completions] for g in groups]
        return self._trainer.score(self._checked_prompts(groups), completions)

    def publish(self, checksums: bool = False) -> list[NumberedBucket]:
        """Put the trained weights into the object store, and return the buckets that this rank has put."""
        return publish(self.engine, self._family, self._model, checksums=checksums)

    def publish_shared_memory(self, version: int, checksums: bool) -> WeightUpdate | None:
        """Publish the trained weights in shared memory from the first rank. Return None on the other ranks."""
        weights, gathered = trainable_weights(self._family, self._model), self.engine.gathered
        if self._rank:
            gather(weights, gathered)
            return None
        if self._shared is None:
            self._shared = SharedMemoryPublisher()
        audio = changes_audio(self._family, weights)
        return self._shared.publish(weights, gathered, version, audio_changed=audio, checksums=checksums)

    def describe(self, checksums: bool) -> tuple[tuple[TensorSlot, ...], bool]:
        """Describe the trained weights for another carrier, and whether they include audio tower or projector."""
        return self._weight_sender.describe(checksums=checksums)

    def meet(self, address: str, port: int, members: int) -> None:
        """Join the NCCL group of the first rank and all engines."""
        self._weight_sender.meet(address, port, members)

    def broadcast(self) -> None:
        """Broadcast the trained weights to the group."""
        self._weight_sender.broadcast()

    def next_piece(self) -> Mapping[str, Any] | None:
        """Return the next piece of trained weights, in this rank's GPU; None after the last."""
        return self._weight_sender.next_piece()

    def transferred(self) -> int:
        """Return the number of parameters that were broadcast so far. For other threads than the rank's own."""
        return 0 if self._sender is None else self._sender.transferred

    def abort_transfer(self) -> None:
        """Make `meet` or `broadcast` raise, if it is running. For other threads than the rank's own."""
        if self._sender is not None:
            self._sender.abort()

    def _close_sender(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    @property
    def _weight_sender(self) -> "WeightSender":
        if self._sender is None:
            # vLLM takes seconds to import, and only these carriers need it in a learner process.
            from learner.weight_sync.gpu_transfer import TrainableWeightSource, WeightSender  # noqa: PLC0415

            self._sender = WeightSender(TrainableWeightSource(self.engine, self._family, self._model), self._rank)
        return self._sender

    def save(self, folder: str, state: bool) -> None:
        """Start to write this rank's share of a checkpoint to `folder`. All ranks must call it.

        Args:
            state: include the training state.
        """
        self._writer.start(snapshot(Path(folder), self.engine, self._family, self._model, self._source, state=state))

    def is_saving(self) -> bool:
        """Return whether a checkpoint is still being written. Raises the error if writing failed."""
        if self._writer.busy:
            return True
        self._writer.wait()
        return False

    def wait_saved(self) -> None:
        """Wait until this rank's share of the checkpoint is on disk. Raises the error if writing failed."""
        self._writer.wait()

    def check_saved(self, folder: str) -> None:
        """Raise CheckpointTrialError unless the checkpoint that all ranks wrote is that of the model."""
        if self._rank == 0:
            check_checkpoint(Path(folder), self._family, self._model, self._processor, self._stops, self._ranks)

    def close(self) -> None:
        """Disconnect from the other ranks. The process ends with its actor."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        self._end_phase()
        shut_down()

    def _encoded(self, question: Question, template: PromptTemplate) -> EncodedPrompt:
        key = (question.key, template)
        if key not in self._prepared:
            self._prepared[key] = self._prompts.encode(question, template)
        return self._prepared[key]

    def _checked_prompts(self, groups: Sequence[TrainingGroup]) -> list[EncodedPrompt]:
        """Return the groups' prompts. Raises PromptMismatchError unless the rollout workers used the same tokens."""
        prompts = [self._encoded(g.question, g.template) for g in groups]
        for group, prompt in zip(groups, prompts, strict=True):
            if prompt.token_ids != group.prompt_token_ids:
                raise PromptMismatchError(
                    f"question {group.question.key}: the learner has {len(prompt.token_ids)} prompt tokens, the "
                    f"rollout worker {len(group.prompt_token_ids)} or different ones; both must load the same processor"
                )
        return prompts
