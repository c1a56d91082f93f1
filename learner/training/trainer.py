"""Turns a batch into optimizer steps: rows, micro-batches, losses, sums. It knows no algorithm and no architecture.

Invariant: the update does not depend on how the batch was cut into micro-batches or over ranks. Every token's share in
the loss is worked out from the whole batch, which every rank is given.
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
from learner.model.cost import DecoderCost
from learner.model.lora import without_adapters
from learner.model.packing import EncodedPrompt, MicroBatch, Row, make_rows, pack
from learner.model.policy import Policy
from learner.phase import Counts, Tally, TrainingPhase
from learner.settings import LearnerSettings
from learner.training.engine import TrainingEngine
from learner.training.plan import MicroBatchPlan, share_out, sharing
from protocol.training import TrainingGroup


class LossOf(Protocol):
    """The loss of one micro-batch, whose figures it adds to `sums`."""

    def __call__(self, plan: MicroBatchPlan, engine: nn.Module, sums: Tally) -> torch.Tensor: ...


class Trainer:
    """One rank's part of the training of one phase."""

    def __init__(
        self,
        policy: Policy,
        reference: Policy | None,
        engine: TrainingEngine,
        settings: LearnerSettings,
        phase: TrainingPhase,
        cost: DecoderCost,
    ) -> None:
        self.policy, self.reference, self.engine = policy, reference, engine
        self._settings, self._phase, self._cost = settings, phase, cost
        self._rank, self._ranks = distributed.get_rank(), distributed.get_world_size()
        self.micro_batch_tokens = settings.micro_batch_tokens
        """Halved once where a batch did not fit into the memory."""

    def reinforce(self, prompts: Sequence[EncodedPrompt], groups: Sequence[TrainingGroup], counts: Counts) -> Tally:
        """The updates of one batch."""
        loss_settings = self._settings.loss
        completions = [c for g in groups for c in g.completions]
        rows, tally = self._rows(prompts, [[c.token_ids for c in g.completions] for g in groups])
        lengths = torch.tensor([len(c.token_ids) if c.counts else 0 for c in completions])
        advantages = torch.tensor([c.advantage for c in completions])
        sampled = [torch.tensor(c.logprobs) for c in completions]
        # Worked out on a batch's first update and kept for the next ones: by the place of a micro-batch.
        old: dict[tuple[int, ...], torch.Tensor] = {}
        reference: dict[tuple[int, ...], torch.Tensor] = {}

        def loss_of(plan: MicroBatchPlan, engine: nn.Module, sums: Tally) -> torch.Tensor:
            batch, key = self._pack(plan.rows), tuple(i for row in plan.rows for i in row.sequence_ids)
            logprobs, entropy = engine(batch)
            device, ids = logprobs.device, batch.sequence_ids
            if key not in reference and self._phase.beta > 0:
                reference[key] = self._reference_logprobs(batch)
            weights = token_weights(
                loss_settings.choices.aggregate, ids, lengths, counts.sequences, counts.tokens, self._phase.max_tokens
            )
            tokens = Tokens(
                logprobs,
                old.setdefault(key, logprobs.detach()),
                torch.cat([sampled[i] for i in key]).to(device),
                advantages[ids].to(device),
                weights.to(device),
                ids.to(device),
                reference.get(key),
            )
            loss = objective(loss_settings, self._phase.beta, tokens)
            if plan.counts:
                _count(sums, tokens, loss, entropy)
            return loss.total if plan.counts else loss.total * 0.0

        for update in range(loss_settings.updates_per_batch):
            self._step(rows, loss_of, tally, first=update == 0)
        return tally

    def supervise(self, prompts: Sequence[EncodedPrompt], targets: Sequence[tuple[int, ...]]) -> Tally:
        """One step towards given answers: cross entropy, the mean over all their tokens."""
        rows, tally = self._rows(prompts, [[target] for target in targets])
        tokens = sum(len(target) for target in targets)

        def loss_of(plan: MicroBatchPlan, engine: nn.Module, sums: Tally) -> torch.Tensor:
            logprobs, entropy = engine(self._pack(plan.rows))
            loss = supervised(logprobs, tokens)
            if not plan.counts:
                return loss * 0.0
            sums.tokens += len(logprobs)
            sums.loss += float(loss.detach())
            sums.entropy += float(entropy.sum())
            return loss

        self._step(rows, loss_of, tally, first=True)
        return tally

    @torch.no_grad()
    def score(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[tuple[float, ...]]:
        """Log-probability of every token of every completion, in order; every rank works out all of them."""
        rows, _ = self._rows(prompts, completions)
        scored: list[list[float]] = [[] for group in completions for _ in group]
        for row in rows:
            batch = self._pack((row,))
            for i, logprob in zip(batch.sequence_ids.tolist(), self.policy(batch)[0].tolist(), strict=True):
                scored[i].append(logprob)
        return [tuple(s) for s in scored]

    def _rows(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[tuple[int, ...]]]
    ) -> tuple[list[Row], Tally]:
        shared = sharing(prompts, completions, self._settings.share_prefix, self._cost)
        tally = Tally()
        if self._rank == 0:
            several = [share for share, group in zip(shared, completions, strict=True) if len(group) > 1]
            tally.groups, tally.shared_groups = len(several), sum(several)
        return make_rows(prompts, completions, shared=shared), tally

    def _reference_logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """Of the frozen reference: a model of its own, or the policy without its adapters."""
        with torch.no_grad():
            if self.reference is not None:
                return self.reference(batch)[0]  # type: ignore[no-any-return]
            with without_adapters(self.policy):
                return self.policy(batch)[0]  # type: ignore[no-any-return]

    def _pack(self, rows: Sequence[Row]) -> MicroBatch:
        return pack(rows, self.policy.family.audio_token_id(self.policy.model))

    def _step(self, rows: Sequence[Row], loss_of: LossOf, tally: Tally, *, first: bool) -> None:
        """One optimizer step; where its batch does not fit into the memory, once more with the batch cut smaller."""
        for attempt in (1, 2):
            plans = share_out(rows, self._ranks, self.micro_batch_tokens)[self._rank]
            sums = Tally()
            try:
                outcome = self.engine.step([partial(loss_of, plan, sums=sums) for plan in plans])
                break
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                largest = max(sum(map(len, plan.rows)) for plan in plans)
                # Only one rank that holds its own gradients can forget half a step; others are started again.
                if attempt == 2 or self._ranks > 1 or self.engine.zero_stage > 0 or not first:
                    raise BatchTooLargeError(self._sizes(plans, largest), largest) from error
            self.engine.drop_gradients()
            self.micro_batch_tokens = max(1, largest // 2)
            tally.cut_smaller = 1
        sums.grad_norm, sums.learning_rate = outcome.grad_norm, outcome.learning_rate
        sums.updates, sums.nonfinite = int(outcome.made), int(not outcome.made)
        if first:
            sums.micro_batches = len(plans)
            sums.tokens_computed = sum(len(row) for plan in plans for row in plan.rows if plan.counts)
        tally.add(sums)

    def _sizes(self, plans: Sequence[MicroBatchPlan], largest: int) -> str:
        rows = [row for plan in plans for row in plan.rows]
        longest = max(rows, key=len)
        return (
            f"out of memory in a step of {len(plans)} micro-batches of up to {largest} tokens; the longest row has "
            f"{len(longest)}, {len(longest.prompt.token_ids)} of them its prompt, and {len(longest.completions)} "
            "completions; lower learner.micro_batch_tokens, rollout.max_tokens or rollout.group_size, or set "
            "learner.activation_checkpointing"
        )


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had; on the CPU torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error)


def _count(sums: Tally, tokens: Tokens, loss: Loss, entropy: torch.Tensor) -> None:
    """Add a micro-batch's figures."""
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
