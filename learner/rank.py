"""One learner process.

Invariant: every rank is called with the same batch in the same order, and holds the same parameters after each call.
A question's clip is read where it is needed; audio does not travel.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from transformers import PreTrainedModel

from audio_qa.audio import AudioError, TooLong
from audio_qa.chat import banned_token_ids, stop_token_ids
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.checkpoint.checkpoint import CheckpointWriter, SavedState, snapshot
from learner.families.family import Part
from learner.families.registry import family_of
from learner.model.audio_memory import AudioMemory, tower_digest
from learner.model.cost import DecoderCost
from learner.model.loading import compile_layers, load_model, load_processor
from learner.model.lora import add_adapters, freeze, trains
from learner.model.packing import EncodedPrompt
from learner.model.policy import Policy
from learner.model.prompts import PromptEncoder, PromptMismatchError
from learner.phase import Counts, PlacedBucket, Tally, TrainingPhase
from learner.settings import LearnerSettings
from learner.training.engine import TrainingEngine, join, leave
from learner.training.trainer import Trainer
from learner.weight_sync.publish import changes_audio, publish, trained
from learner.weight_sync.shared_memory import SharedMemoryPublisher, gather
from protocol.training import SupervisedExample, TrainingGroup
from protocol.weights import TensorSlot, WeightUpdate

if TYPE_CHECKING:
    from learner.weight_sync.between_gpus import Sender


class LearnerRank:
    """Rank `rank` of `ranks`; `learner.actor` runs it in a process of its own."""

    def __init__(self, rank: int, ranks: int, settings: LearnerSettings, too_long: TooLong = "refuse") -> None:
        self._rank, self._ranks, self._settings, self._too_long = rank, ranks, settings, too_long
        torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // ranks))
        self._writer = CheckpointWriter()
        self._engine: TrainingEngine | None = None
        self._sender: Sender | None = None
        self._shared: SharedMemoryPublisher | None = None
        self._prepared: dict[tuple[str, PromptTemplate], EncodedPrompt] = {}

    def address(self) -> tuple[str, int]:
        """A host and a free port where the ranks can meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def sees(self, file: str) -> tuple[bool, str]:
        """Whether there is a file, and on which node it was looked for."""
        return Path(file).is_file(), ray.util.get_node_ip_address()

    def join(self, address: str, port: int) -> None:
        """Meet the other ranks; returns once all are there."""
        join(self._rank, self._ranks, address, port, self._settings.timeout_seconds)

    def begin(self, folder: str, phase: TrainingPhase, resume: str | None = None) -> None:
        """Load the checkpoint in `folder` and start a phase on it.

        Args:
            resume: go on from the training state in this checkpoint of the same phase, not from its start.

        Raises:
            ModelError: the checkpoint is not whole.
            CheckpointError: the training state is not of this job.
        """
        if self._engine is not None:
            self._engine.close()
        # A group that was met goes on with the new model's weights only once it has met again.
        self._sender = None
        settings = self._settings
        self._family, self._processor = family_of(folder), load_processor(folder)
        self._prompts = PromptEncoder(self._family, self._processor, too_long=self._too_long)
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
            saved.restore_parameters(self._model)
        if settings.compile:
            compile_layers(self._family, self._model)
        cost = DecoderCost.of(self._family.decoder(self._model))
        vocabulary = self._family.vocabulary_size(self._model)
        stops = stop_token_ids(folder, self._processor.tokenizer)
        banned = banned_token_ids(self._processor.tokenizer, vocabulary, stops)
        memory = None
        if not trains(settings.train, Part.AUDIO_TOWER):
            memory = self._memory(self._model, in_step=settings.zero_stage == 3 and self._ranks > 1)
        policy = Policy(self._family, self._model, banned=banned, temperature=phase.temperature, memory=memory)
        reference = None
        if phase.beta > 0 and settings.lora is None:
            frozen = load_model(self._family, folder, settings.dtype).eval().requires_grad_(False)
            if settings.compile:
                compile_layers(self._family, frozen)
            # A tower that does not train is the same on both sides: what it made of a clip serves both.
            kept = memory or self._memory(frozen, in_step=False)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            reference = Policy(self._family, frozen, banned=banned, temperature=phase.temperature, memory=kept)
            reference = reference.to(device)
        self._engine = TrainingEngine(policy, settings, phase.optimizer, phase.total_steps)
        if saved is not None:
            saved.restore_optimizer(self._engine, self._model)
        self._trainer = Trainer(policy, reference, self._engine, settings, phase, cost)

    def _memory(self, model: PreTrainedModel, *, in_step: bool) -> AudioMemory:
        """For the outputs of a model's frozen audio tower."""
        settings = self._settings.audio_cache
        folder = None
        if settings.folder is not None:
            folder = Path(settings.folder) / tower_digest(self._family.tower(model))
        return AudioMemory(limit_bytes=int(settings.memory_gib * 2**30), folder=folder, in_step=in_step)

    @property
    def engine(self) -> TrainingEngine:
        if self._engine is None:
            raise RuntimeError("the learner was asked to work before a phase began")
        return self._engine

    def prepare(self, asked: Sequence[tuple[Question, PromptTemplate]]) -> dict[int, str]:
        """Read the clips and prompts of a batch ahead of the step on it.

        Returns:
            What cannot be read: its place in `asked`, and why. The step must be asked for without it, on all ranks.
        """
        self._prepared.clear()
        unreadable: dict[int, str] = {}
        for i, (question, template) in enumerate(asked):
            try:
                self._encoded(question, template)
            except AudioError as error:
                unreadable[i] = str(error)
        return unreadable

    def learn(self, groups: Sequence[TrainingGroup], counts: Counts) -> Tally:
        """The updates of one batch of reinforcement learning.

        Args:
            groups: the whole batch; this rank works on its share.
            counts: what the loss is a mean over.

        Raises:
            PromptMismatchError: the rollout worker read another prompt than the learner does.
            BatchTooLargeError: a micro-batch does not fit into the memory.
        """
        return self._trainer.reinforce(self._as_read(groups), groups, counts)

    def skip(self, steps: int) -> None:
        """Let steps of the schedule pass in which no group was worth learning from."""
        for _ in range(steps):
            self.engine.skip()

    def supervise(self, examples: Sequence[SupervisedExample]) -> Tally:
        """One supervised step: cross entropy of the targets and the stop token behind them, the mean over tokens."""
        tokenizer = self._processor.tokenizer
        stop = (tokenizer.eos_token_id,)
        prompts = [self._encoded(e.question, e.template) for e in examples]
        targets = [(*tokenizer(e.target, add_special_tokens=False)["input_ids"], *stop) for e in examples]
        return self._trainer.supervise(prompts, targets)

    def score(self, groups: Sequence[TrainingGroup]) -> list[tuple[float, ...]]:
        """Log-probability of every token of every completion, in order, without learning from it."""
        return self._trainer.score(self._as_read(groups), [[c.token_ids for c in g.completions] for g in groups])

    def publish(self, checksums: bool = False) -> list[PlacedBucket]:
        """Put the trained weights into the object store; the buckets that this rank has put."""
        return publish(self.engine, self._family, self._model, checksums=checksums)

    def share(self, version: int, checksums: bool) -> WeightUpdate | None:
        """Have the first rank publish the trained weights in its machine's memory; None on the other ranks."""
        weights, whole = trained(self._family, self._model), self.engine.whole
        if self._rank:
            gather(weights, whole)
            return None
        if self._shared is None:
            self._shared = SharedMemoryPublisher()
        audio = changes_audio(self._family, weights)
        return self._shared.publish(weights, whole, version, audio_changed=audio, checksums=checksums)

    def describe(self, checksums: bool) -> tuple[tuple[TensorSlot, ...], bool]:
        """The trained weights that another carrier takes, and whether audio tower or projector are among them."""
        return self._between_gpus.describe(checksums=checksums)

    def meet(self, address: str, port: int, members: int) -> None:
        """Join a group for weights: the first rank with all engines."""
        self._between_gpus.meet(address, port, members)

    def broadcast(self) -> None:
        """Send the trained weights to the group."""
        self._between_gpus.broadcast()

    def next_piece(self) -> Mapping[str, Any] | None:
        """The next lot of trained weights, in this rank's GPU; None behind the last."""
        return self._between_gpus.next_piece()

    @property
    def _between_gpus(self) -> "Sender":
        if self._sender is None:
            # vLLM takes seconds to import, and only these carriers need it here.
            from learner.weight_sync.between_gpus import Sender, TrainedWeights  # noqa: PLC0415

            self._sender = Sender(TrainedWeights(self.engine, self._family, self._model), self._rank)
        return self._sender

    def save(self, folder: str, state: bool) -> None:
        """Begin to write this rank's share of a checkpoint to `folder`; all ranks must be asked.

        Args:
            state: with what training needs to go on from it, or only the model.
        """
        self._writer.start(snapshot(Path(folder), self.engine, self._family, self._model, self._processor, state=state))

    def saving(self) -> bool:
        """Whether a checkpoint is still being written. Raises what went wrong with it."""
        if self._writer.busy:
            return True
        self._writer.wait()
        return False

    def saved(self) -> None:
        """Return once this rank's share of the checkpoint is on disk. Raises what went wrong with it."""
        self._writer.wait()

    def close(self) -> None:
        """Leave the other ranks. The process ends with its actor."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        leave()

    def _encoded(self, question: Question, template: PromptTemplate) -> EncodedPrompt:
        key = (question.key, template)
        if key not in self._prepared:
            self._prepared[key] = self._prompts.encode(question, template)
        return self._prepared[key]

    def _as_read(self, groups: Sequence[TrainingGroup]) -> list[EncodedPrompt]:
        """The groups' prompts, after a check that the rollout workers' engines read the same tokens."""
        prompts = [self._encoded(g.question, g.template) for g in groups]
        for group, prompt in zip(groups, prompts, strict=True):
            if prompt.token_ids != group.prompt_token_ids:
                raise PromptMismatchError(
                    f"question {group.question.key}: the learner reads {len(prompt.token_ids)} prompt tokens, the "
                    f"rollout worker {len(group.prompt_token_ids)} or other ones; both must load the same processor"
                )
        return prompts
