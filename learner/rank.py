"""One learner process.

Invariant: every rank is called with the same batch in the same order, and holds the same parameters after each call.
A question's clip is read where it is needed; audio does not travel.
"""

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ray
import torch
from torch import nn

from audio_qa.audio import AudioError, TooLong
from audio_qa.chat import banned_token_ids, stop_token_ids
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.engine import TrainingEngine, join, leave
from learner.export import write_checkpoint
from learner.loss import grpo, k3, sequence_mean_weights, supervised
from learner.model import load_model, load_processor
from learner.names import named_canonical
from learner.packing import EncodedPrompt, MicroBatch, Row, make_rows, pack
from learner.phase import Phase, Tally
from learner.plan import MicroBatchPlan, share_out
from learner.policy import Policy
from learner.prompts import PromptEncoder, PromptMismatchError
from learner.publish import publish
from learner.settings import LearnerSettings
from protocol.training import SupervisedExample, TrainingGroup
from protocol.weights import WeightUpdate


class LearnerRank:
    """Rank `rank` of `ranks`; `learner.actor` runs it in a process of its own."""

    def __init__(self, rank: int, ranks: int, settings: LearnerSettings, too_long: TooLong = "refuse") -> None:
        self._rank, self._ranks, self._settings, self._too_long = rank, ranks, settings, too_long
        torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // ranks))
        self._engine: TrainingEngine | None = None
        self._prepared: dict[tuple[str, PromptTemplate], EncodedPrompt] = {}

    def address(self) -> tuple[str, int]:
        """A host and a free port where the ranks can meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def join(self, address: str, port: int) -> None:
        """Meet the other ranks; returns once all are there."""
        join(self._rank, self._ranks, address, port, self._settings.timeout_seconds)

    def begin(self, folder: str, phase: Phase) -> None:
        """Load the checkpoint in `folder` and start a phase on it with a fresh optimizer."""
        if self._engine is not None:
            self._engine.close()
        self._phase = phase
        processor = load_processor(folder)
        model = load_model(folder, self._settings.dtype)
        tokenizer = processor.tokenizer
        stops = stop_token_ids(folder, tokenizer)
        banned = banned_token_ids(tokenizer, model.config.text_config.vocab_size, stops)
        self._prompts = PromptEncoder(processor, too_long=self._too_long)
        self._model = model
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._policy = Policy(model, banned=banned, temperature=phase.temperature)
        self._reference: Policy | None = None
        if phase.beta > 0:
            frozen = load_model(folder, self._settings.dtype).eval().requires_grad_(False)
            self._reference = Policy(frozen, banned=banned, temperature=phase.temperature).to(self._device)
        self._engine = TrainingEngine(self._policy, self._settings, phase.optimizer, phase.total_steps)

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

    def learn(self, groups: Sequence[TrainingGroup], sequences: int) -> Tally:
        """One GRPO step.

        Args:
            groups: the whole batch; this rank works on its share.
            sequences: completions the loss is a mean over: those in `groups`, and those left out of it because their
                advantages and beta are 0, so that leaving them out does not change the update.

        Raises:
            PromptMismatchError: the rollout worker read another prompt than the learner does.
        """
        prompts = self._as_read(groups)
        completions = [c for g in groups for c in g.completions]
        rows = make_rows(
            prompts, [[c.token_ids for c in g.completions] for g in groups], shared=self._settings.share_prefix
        )
        lengths = torch.tensor([len(c.token_ids) for c in completions])
        advantages = torch.tensor([c.advantage for c in completions])
        sampled = [torch.tensor(c.logprobs) for c in completions]
        tally = Tally()

        def loss_of(plan: MicroBatchPlan, engine: nn.Module) -> torch.Tensor:
            batch = self._pack(plan.rows)
            ids = batch.sequence_ids
            logprobs, entropy = engine(batch)
            reference = None
            if self._reference is not None:
                with torch.no_grad():
                    reference = self._reference(batch)[0]
            weights = sequence_mean_weights(ids, lengths, sequences).to(logprobs.device)
            loss = grpo(
                logprobs,
                advantages[ids].to(logprobs.device),
                weights,
                reference=reference,
                beta=self._phase.beta,
            )
            if not plan.counts:
                return loss.total * 0.0
            old = torch.cat([sampled[i] for row in plan.rows for i in row.sequence_ids]).to(logprobs.device)
            gap = logprobs.detach() - old
            tally.tokens += len(ids)
            tally.loss += float(loss.total.detach())
            tally.policy += float(loss.policy)
            tally.kl += float((k3(logprobs.detach(), reference) * weights).sum()) if reference is not None else 0.0
            tally.entropy += float(entropy.sum())
            tally.ratio += float(gap.exp().sum())
            tally.logprob_gap = max(tally.logprob_gap, float(gap.abs().max()) if len(gap) else 0.0)
            return loss.total

        return self._step(rows, loss_of, tally)

    def skip(self) -> None:
        """Let a step pass in which no group was worth learning from."""
        self.engine.skip()

    def supervise(self, examples: Sequence[SupervisedExample]) -> Tally:
        """One supervised step: cross entropy of the targets and the stop token behind them, the mean over tokens."""
        tokenizer = self._prompts.processor.tokenizer
        stop = (tokenizer.eos_token_id,)
        prompts = [self._encoded(e.question, e.template) for e in examples]
        targets = [[(*tokenizer(e.target, add_special_tokens=False)["input_ids"], *stop)] for e in examples]
        tokens = sum(len(t) for group in targets for t in group)
        tally = Tally()

        def loss_of(plan: MicroBatchPlan, engine: nn.Module) -> torch.Tensor:
            logprobs, entropy = engine(self._pack(plan.rows))
            loss = supervised(logprobs, tokens)
            if not plan.counts:
                return loss * 0.0
            tally.tokens += len(logprobs)
            tally.loss += float(loss.detach())
            tally.entropy += float(entropy.sum())
            return loss

        return self._step(make_rows(prompts, targets, shared=True), loss_of, tally)

    def score(self, groups: Sequence[TrainingGroup]) -> list[tuple[float, ...]]:
        """Log-probability of every token of every completion, in order, without learning from it."""
        prompts = self._as_read(groups)
        texts = [[c.token_ids for c in g.completions] for g in groups]
        scored: list[list[float]] = [[] for group in texts for _ in group]
        with torch.no_grad():
            for row in make_rows(prompts, texts, shared=self._settings.share_prefix):
                batch = self._pack((row,))
                for i, logprob in zip(batch.sequence_ids.tolist(), self._policy(batch)[0].tolist(), strict=True):
                    scored[i].append(logprob)
        return [tuple(s) for s in scored]

    def publish(self, version: int) -> WeightUpdate | None:
        """Put the trained parameters into the object store; rank 0 answers with where they are."""
        return publish(self.engine, self._model, version)

    def save(self, folder: str) -> None:
        """Write a Hugging Face checkpoint; all ranks call it, rank 0 writes."""
        state: dict[str, torch.Tensor] = {}
        for name, parameter in named_canonical(self._model):
            with self.engine.whole([parameter]):
                if self._rank == 0:
                    state[name] = parameter.detach().to("cpu", copy=True).contiguous()
        if self._rank == 0:
            write_checkpoint(Path(folder), self._model, self._prompts.processor, state)

    def close(self) -> None:
        """Leave the other ranks. The process ends with its actor."""
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

    def _pack(self, rows: Sequence[Row]) -> MicroBatch:
        pad = self._model.config.text_config.pad_token_id
        return pack(rows, self._model.config.audio_token_id, 0 if pad is None else pad)

    def _step(
        self, rows: Sequence[Row], loss_of: Callable[[MicroBatchPlan, nn.Module], torch.Tensor], tally: Tally
    ) -> Tally:
        mine = share_out(rows, self._ranks, self._settings.micro_batch_tokens)[self._rank]
        outcome = self.engine.step([partial(loss_of, plan) for plan in mine])
        tally.grad_norm, tally.learning_rate = outcome["grad_norm"], outcome["learning_rate"]
        return tally
