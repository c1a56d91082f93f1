"""Check that a peer does the same work as our learner, before any times are compared.

Invariant: a peer that is compared computes with the same number of threads and the same types, uses every clip, and
agrees with our learner in log-probabilities, gradients, update and loss. Otherwise an error names the difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.process import Peer
from benchmarks.support.learner_workload import (
    BenchmarkLearner,
    PreparedWorkload,
    Step,
    Workload,
    audio_only,
    read_parameters,
)

LOGPROB_BOUND = 1e-4
RELATIVE_BOUND = 1e-3
SILENCE_BOUND = 1e-2
"""Minimum change of a log-probability when silence replaces the clips."""
AUDIO_TOKENS_PER_SECOND = 25


class DisagreementError(RuntimeError):
    """The peer did not do the same work; the message names the difference."""


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """Our learner's first two steps, to compare a peer's with. They are also its warm-up."""

    logprobs: list[tuple[float, ...]]
    """Log-probabilities of every token of every completion, before the first step."""
    steps: tuple[Step, Step]
    before: dict[str, torch.Tensor]
    """Parameters before the first step, by canonical name."""
    after: dict[str, torch.Tensor]
    """Parameters after the first step, by canonical name."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Differences between a peer and our learner over two steps from one checkpoint on one batch."""

    logprob_difference: float
    """Largest difference of a token's log-probability before the first step."""
    grad_norm_difference: float
    """Relative difference of the gradient's norm before clipping; the larger one of both steps."""
    update_difference: float
    """Norm of the difference between the first step's updates, relative to the norm of ours."""
    audio_update_difference: float
    """The same for audio tower and projector only."""
    loss_difference: float
    """Relative difference of the second step's loss. The first step's is 0: no KL yet, and advantages cancel."""

    def check(self) -> None:
        """Raise DisagreementError if a difference is larger than rounding in float32 explains."""
        for name, difference in asdict(self).items():
            bound = LOGPROB_BOUND if name == "logprob_difference" else RELATIVE_BOUND
            if not difference <= bound:
                raise DisagreementError(f"{name} is {difference:.1e}, above {bound:.0e}: times are not comparable")


def take_first_steps(learner: BenchmarkLearner, work: PreparedWorkload, folder: Path) -> FirstSteps:
    """Take our learner's first two steps; `folder` is for a checkpoint in between."""
    logprobs = learner.score()
    first = learner.step()
    learner.save(folder)
    before, after = (read_parameters(f / "model.safetensors") for f in (work.model, folder))
    return FirstSteps(logprobs, (first, learner.step()), before, after)


def measure_agreement(ours: FirstSteps, peer: Peer, scratch: Path) -> tuple[Agreement, dict[str, Any]]:
    """Make the peer take its first two steps. Return the differences, and the peer's reply to the second step."""
    first = peer.request({"do": "step"})
    saved = scratch / "after.safetensors"
    peer.request({"do": "save", "path": str(saved)})
    second = peer.request({"do": "step"})
    after = read_parameters(saved)
    steps = zip(ours.steps, (first, second), strict=True)
    found = Agreement(
        logprob_difference=largest_difference(ours.logprobs, first["logprobs"]),
        grad_norm_difference=max(relative_difference(our.grad_norm, their["grad_norm"]) for our, their in steps),
        update_difference=update_difference(ours.before, ours.after, after),
        audio_update_difference=update_difference(*map(audio_only, (ours.before, ours.after, after))),
        loss_difference=relative_difference(ours.steps[1].loss, second["loss"]),
    )
    return found, second


def largest_difference(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Return the largest difference between corresponding numbers."""
    rows = zip(ours, theirs, strict=True)
    return max(abs(a - b) for our, their in rows for a, b in zip(our, their, strict=True))


def relative_difference(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / abs(ours)


def update_difference(
    before: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]
) -> float:
    """Return the norm of `ours` - `theirs` over the norm of `ours` - `before`.

    Raises:
        DisagreementError: the three do not have the same parameters.
    """
    if not before.keys() == ours.keys() == theirs.keys():
        odd = sorted((before.keys() ^ ours.keys()) | (before.keys() ^ theirs.keys()))
        raise DisagreementError(f"one side lacks {len(odd)} parameters, for example {odd[0]}")
    difference = torch.stack([(ours[name] - theirs[name]).double().norm() for name in before]).norm()
    update = torch.stack([(ours[name] - before[name]).double().norm() for name in before]).norm()
    return float(difference / update)


def check_conditions(ready: Mapping[str, Any], ours: FirstSteps) -> None:
    """Raise DisagreementError if the peer's conditions differ from ours, or its policy ignores the audio."""
    conditions = {
        "threads": (ready["threads"], torch.get_num_threads()),
        "types": (ready["dtypes"], sorted({str(p.dtype) for p in ours.after.values()})),
        **{package: (ready["versions"][package], version(package)) for package in ("torch", "transformers")},
    }
    for name, (theirs, our) in conditions.items():
        if theirs != our:
            raise DisagreementError(f"{name}: the peer computes with {theirs}, our learner with {our}")
    if not ready["silence_difference"] >= SILENCE_BOUND:
        raise DisagreementError(
            f"silence changes the peer's log-probabilities by only {ready['silence_difference']:.1e}"
        )


def check_audio_used(step: Mapping[str, Any], workload: Workload) -> None:
    """Raise DisagreementError if a row of the peer's policy or reference did not use its whole clip in this step."""
    rows = workload.completions
    tokens = round(rows * workload.clip_seconds * AUDIO_TOKENS_PER_SECOND)
    clips, embeddings = step["clips_encoded"], step["audio_embeddings"]
    if set(clips.values()) != {rows} or set(embeddings.values()) != {tokens}:
        raise DisagreementError(
            f"the peer used {clips} clips as {embeddings} embeddings, expected {rows} clips as {tokens}"
        )
