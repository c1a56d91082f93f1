"""The trainer: turns a batch into rows, micro-batches, losses and optimizer steps.

It is independent of the algorithm and of the architecture. Invariant: the update does not depend on how the batch is
split into micro-batches or over ranks. Every token's weight in the loss is computed from the whole batch, which every
rank receives.
"""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import distributed, nn

from learner.errors import BatchTooLargeError
from learner.losses.aggregate import token_weights
from learner.losses.objective import Loss, Tokens, objective
from learner.losses.supervised import supervised
from learner.messages import BatchCounts, PhaseSettings, StepStats
from learner.model.flops import DecoderFlops
from learner.model.lora import without_adapters
from learner.model.packing import EncodedPrompt, MicroBatch, Row, make_rows, pack
from learner.model.policy import Policy
from learner.settings import LearnerSettings
from learner.training.engine import TrainingEngine
from learner.training.micro_batches import MicroBatchPlan, agree_on_calls, choose_sharing, distribute_rows
from protocol.training import TrainingGroup


class MicroBatchLoss(Protocol):
    """A function that returns the loss of the i-th micro-batch of a step, and adds its statistics to `sums`."""

    def __call__(self, i: int, plan: MicroBatchPlan, engine: nn.Module, sums: StepStats) -> torch.Tensor: ...


class Trainer:
    """One rank's trainer of one training phase."""

    def __init__(
        self,
        policy: Policy,
        reference: Policy | None,
        engine: TrainingEngine,
        settings: LearnerSettings,
        phase: PhaseSettings,
        cost: DecoderFlops,
    ) -> None:
        self.policy, self.reference, self.engine = policy, reference, engine
        self._settings, self._phase, self._cost = settings, phase, cost
        self._rank, self._ranks = distributed.get_rank(), distributed.get_world_size()
        self.micro_batch_tokens = settings.micro_batch_tokens
        """Halved once if a batch does not fit into memory."""

    def reinforce(
        self, prompts: Sequence[EncodedPrompt], groups: Sequence[TrainingGroup], counts: BatchCounts
    ) -> StepStats:
        """Make the updates of one batch."""
        loss_settings = self._settings.loss
        completions = [c for g in groups for c in g.completions]
        rows, stats = self._rows(prompts, [[c.token_ids for c in g.completions] for g in groups])
        lengths = torch.tensor([len(c.token_ids) if c.counts else 0 for c in completions])
        advantages = torch.tensor([c.advantage for c in completions])
        sampled = [torch.tensor(c.logprobs) for c in completions]
        # Computed on a batch's first update and kept for the following ones, by the micro-batch's number and sequence
        # ids. By the ids alone, a rank that repeats a row would compute one reference less than the other ranks.
        old: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
        reference: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}

        def loss_of(i: int, plan: MicroBatchPlan, engine: nn.Module, sums: StepStats) -> torch.Tensor:
            batch, sequences = self._pack(plan), [i for row in plan.rows for i in row.sequence_ids]
            key = i, tuple(sequences)
            # Before the policy's forward: in between, it would spoil what DeepSpeed keeps of that for the backward.
            if key not in reference and self._phase.beta > 0:
                reference[key] = self._reference_logprobs(batch)
            logprobs, entropy = engine(batch)
            device, ids = logprobs.device, batch.sequence_ids
            weights = token_weights(
                loss_settings.choices.aggregate, ids, lengths, counts.sequences, counts.tokens, self._phase.max_tokens
            )
            tokens = Tokens(
                logprobs,
                old.setdefault(key, logprobs.detach()),
                torch.cat([sampled[i] for i in sequences]).to(device),
                advantages[ids].to(device),
                weights.to(device),
                ids.to(device),
                reference.get(key),
            )
            loss = objective(loss_settings, self._phase.beta, tokens)
            if plan.counts:
                _record(sums, tokens, loss, entropy)
            return loss.total if plan.counts else loss.total * 0.0

        for update in range(loss_settings.updates_per_batch):
            self._step(rows, loss_of, stats, first=update == 0)
        return stats

    def supervise(self, prompts: Sequence[EncodedPrompt], targets: Sequence[tuple[int, ...]]) -> StepStats:
        """Take one supervised step: cross entropy of the targets, averaged over all their tokens."""
        rows, stats = self._rows(prompts, [[target] for target in targets])
        tokens = sum(len(target) for target in targets)

        def loss_of(i: int, plan: MicroBatchPlan, engine: nn.Module, sums: StepStats) -> torch.Tensor:
            logprobs, entropy = engine(self._pack(plan))
            loss = supervised(logprobs, tokens)
            if not plan.counts:
                return loss * 0.0
            sums.tokens += len(logprobs)
            sums.loss += float(loss.detach())
            sums.entropy += float(entropy.sum())
            return loss

        self._step(rows, loss_of, stats, first=True)
        return stats

    @torch.no_grad()
    def score(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of every completion, in order. Every rank computes all of them."""
        rows, _ = self._rows(prompts, completions)
        scores: list[list[float]] = [[] for group in completions for _ in group]
        for row in rows:
            batch = self._pack(MicroBatchPlan((row,)))
            for i, logprob in zip(batch.sequence_ids.tolist(), self.policy(batch)[0].tolist(), strict=True):
                scores[i].append(logprob)
        return [tuple(s) for s in scores]

    def _rows(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[tuple[int, ...]]]
    ) -> tuple[list[Row], StepStats]:
        shared = choose_sharing(prompts, completions, self._settings.share_prefix, self._cost)
        stats = StepStats()
        if self._rank == 0:
            several = [share for share, group in zip(shared, completions, strict=True) if len(group) > 1]
            stats.groups, stats.shared_groups = len(several), sum(several)
        return make_rows(prompts, completions, shared=shared), stats

    def _reference_logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """Return the log-probabilities under the reference: a separate model, or the policy without its adapters."""
        with torch.no_grad():
            if self.reference is not None:
                return self.reference(batch)[0]  # type: ignore[no-any-return]
            with without_adapters(self.policy):
                return self.policy(batch)[0]  # type: ignore[no-any-return]

    def _pack(self, plan: MicroBatchPlan) -> MicroBatch:
        return pack(plan.rows, self.policy.family.audio_token_id(self.policy.model), plan.calls)

    def _step(self, rows: Sequence[Row], loss_of: MicroBatchLoss, stats: StepStats, *, first: bool) -> None:
        """Take one optimizer step. If its batch does not fit into memory, retry once with smaller micro-batches."""
        for attempt in (1, 2):
            plans = self._plans(rows)
            sums = StepStats()
            try:
                outcome = self.engine.step([partial(loss_of, i, plan, sums=sums) for i, plan in enumerate(plans)])
                break
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                largest = max(sum(map(len, plan.rows)) for plan in plans)
                # Only a single rank that holds its own gradients can discard half a step; others are restarted.
                if attempt == 2 or self._ranks > 1 or self.engine.zero_stage > 0 or not first:
                    raise BatchTooLargeError(self._sizes(plans, largest), largest) from error
            self.engine.drop_gradients()
            self.micro_batch_tokens = max(1, largest // 2)
            stats.cut_smaller = 1
        sums.grad_norm, sums.learning_rate = outcome.grad_norm, outcome.learning_rate
        sums.updates, sums.nonfinite = int(outcome.applied), int(not outcome.applied)
        if first:
            sums.micro_batches = len(plans)
            sums.tokens_computed = sum(len(row) for plan in plans for row in plan.rows if plan.counts)
        stats.add(sums)

    def _plans(self, rows: Sequence[Row]) -> list[MicroBatchPlan]:
        """Return this rank's micro-batches."""
        plans = distribute_rows(rows, self._ranks, self.micro_batch_tokens)
        if self._ranks > 1 and self.engine.zero_stage == 3:
            plans = agree_on_calls(plans, self.policy.calls_needed)
        return plans[self._rank]

    def _sizes(self, plans: Sequence[MicroBatchPlan], largest: int) -> str:
        rows = [row for plan in plans for row in plan.rows]
        longest = max(rows, key=len)
        return (
            f"out of memory in a step of {len(plans)} micro-batches of up to {largest} tokens; the longest row has "
            f"{len(longest)} ({len(longest.prompt.token_ids)} of them in the prompt) and {len(longest.completions)} "
            "completions; lower learner.micro_batch_tokens, rollout.max_tokens or rollout.group_size, or set "
            "learner.activation_checkpointing"
        )


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means out of memory. On the CPU torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error)


def _record(sums: StepStats, tokens: Tokens, loss: Loss, entropy: torch.Tensor) -> None:
    """Add a micro-batch's statistics."""
    gap = (tokens.old - tokens.sampled).abs()
    sums.tokens += len(gap)
    sums.loss += float(loss.total.detach())
    sums.policy += float(loss.policy)
    sums.kl += float(loss.kl)
    sums.entropy += float(entropy.sum())
    sums.ratio += float((tokens.logprobs.detach() - tokens.sampled).exp().sum())
    sums.clipped += float(loss.surrogate.clipped.sum())
    sums.importance += float(loss.importance.sum())
    sums.logprob_gap = max(sums.logprob_gap, float(gap.max()) if len(gap) else 0.0)
