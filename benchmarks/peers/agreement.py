"""Whether a peer did the same work as our learner. Asked before any time is compared.

Invariant: whoever is compared computed with as many threads and the same types, heard every clip, and agrees with us in
log-probabilities, gradients, update and loss; else there is an error that says in what it differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.learner_work import LearnerAtWork, Step, Work, Workload, audio_only, read_parameters
from benchmarks.peers.conversation import Peer

LOGPROB_BOUND = 1e-4
RELATIVE_BOUND = 1e-3
SILENCE_BOUND = 1e-2
"""What silence in place of the clips must change a log-probability by, at least."""
AUDIO_TOKENS_PER_SECOND = 25


class DisagreementError(RuntimeError):
    """The peer did not do the same work; the message says where it parts from us."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Our first two steps, for a peer's to be held against. They warm the learner up as well."""

    logprobs: list[tuple[float, ...]]
    """Of every token of every completion, before the first step."""
    steps: tuple[Step, Step]
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    """The parameters on both sides of the first step, by their name in a checkpoint."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a peer is from us over two steps from one checkpoint on one batch."""

    logprob_difference: float
    """Largest difference of a token's log-probability before the first step."""
    grad_norm_difference: float
    """Relative, of the gradient's norm before clipping; the larger one of both steps."""
    update_difference: float
    """Norm of the difference between the first step's updates, relative to the norm of ours."""
    audio_update_difference: float
    """The same over audio tower and projector alone."""
    loss_difference: float
    """Relative, of the second step's loss. At the first both its terms are 0: no KL yet, and advantages cancel out."""

    def check(self) -> None:
        """Raises DisagreementError where a difference is larger than float32 explains."""
        for name, difference in asdict(self).items():
            bound = LOGPROB_BOUND if name == "logprob_difference" else RELATIVE_BOUND
            if not difference <= bound:
                raise DisagreementError(f"{name} is {difference:.1e}, more than {bound:.0e}: times would not compare")


def opening(learner: LearnerAtWork, work: Work, folder: Path) -> Opening:
    """Take our first two steps; `folder` is for a checkpoint in between."""
    logprobs = learner.score()
    first = learner.step()
    learner.save(folder)
    before, after = (read_parameters(f / "model.safetensors") for f in (work.model, folder))
    return Opening(logprobs, (first, learner.step()), before, after)


def agreement(ours: Opening, peer: Peer, scratch: Path) -> tuple[Agreement, dict[str, Any]]:
    """Let the peer take its first two steps and hold them against ours; also its answer to the second."""
    first = peer.ask({"do": "step"})
    saved = scratch / "after.safetensors"
    peer.ask({"do": "save", "path": str(saved)})
    second = peer.ask({"do": "step"})
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
    """Between numbers at the same place."""
    rows = zip(ours, theirs, strict=True)
    return max(abs(a - b) for our, their in rows for a, b in zip(our, their, strict=True))


def relative_difference(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / abs(ours)


def update_difference(
    before: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]
) -> float:
    """Norm of `ours` - `theirs`, relative to the norm of `ours` - `before`.

    Raises:
        DisagreementError: not all three have the same parameters.
    """
    if not before.keys() == ours.keys() == theirs.keys():
        odd = sorted((before.keys() ^ ours.keys()) | (before.keys() ^ theirs.keys()))
        raise DisagreementError(f"one side lacks {len(odd)} parameters, {odd[0]} among them")
    apart = torch.stack([(ours[name] - theirs[name]).double().norm() for name in before]).norm()
    moved = torch.stack([(ours[name] - before[name]).double().norm() for name in before]).norm()
    return float(apart / moved)


def check_conditions(ready: Mapping[str, Any], ours: Opening) -> None:
    """Raises DisagreementError if the peer computes under other conditions than we do, or its policy is deaf."""
    theirs_and_ours = {
        "threads": (ready["threads"], torch.get_num_threads()),
        "types": (ready["dtypes"], sorted({str(p.dtype) for p in ours.after.values()})),
        **{package: (ready["versions"][package], version(package)) for package in ("torch", "transformers")},
    }
    for name, (theirs, our) in theirs_and_ours.items():
        if theirs != our:
            raise DisagreementError(f"{name}: the peer computes with {theirs}, we with {our}")
    if not ready["silence_difference"] >= SILENCE_BOUND:
        raise DisagreementError(
            f"silence changes the peer's log-probabilities by {ready['silence_difference']:.1e} only"
        )


def check_hearing(step: Mapping[str, Any], workload: Workload) -> None:
    """Raises DisagreementError if a row of the peer's policy or reference did not hear its whole clip in this step."""
    rows = workload.completions
    tokens = round(rows * workload.clip_seconds * AUDIO_TOKENS_PER_SECOND)
    clips, embeddings = step["clips_encoded"], step["audio_embeddings"]
    if set(clips.values()) != {rows} or set(embeddings.values()) != {tokens}:
        raise DisagreementError(f"the peer heard {clips} clips as {embeddings} embeddings, not {rows} as {tokens}")
