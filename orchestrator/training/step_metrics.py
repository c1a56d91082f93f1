"""The metrics of a learner step, under the names that every run writes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

from orchestrator.run.metrics import METRIC_NAMES
from orchestrator.training.batch import JudgedGroup, Verdict
from orchestrator.training.rollouts import Batch
from protocol.rollout import StopReason


class Stopwatch:
    """Seconds spent in each phase of a step."""

    def __init__(self) -> None:
        self.started = perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - before

    @property
    def total(self) -> float:
        return perf_counter() - self.started


def step_metrics(
    *,
    step: int,
    epoch: float,
    batch: Batch,
    judged: Sequence[JudgedGroup],
    learned: Mapping[str, float],
    learner_version: int,
    workers_alive: int,
    watch: Stopwatch,
    beta: float,
) -> dict[str, float | None]:
    """Return the line of metrics.jsonl for one step. A metric without a value in this step is None."""
    scores = [score for g in judged for score in g.scores if score.valid]
    completions = [completion for g in judged for completion in g.group.completions]
    lengths = [len(c.token_ids) for c in completions]
    updated = not learned or bool(learned.get("learner/updates", 1))
    # The groups of a skipped update failed: they were not trained on.
    ended = Counter(Verdict.UNSCORED if g.verdict is Verdict.TRAIN and not updated else g.verdict for g in judged)
    staleness = [learner_version - g.group.weight_version for g in judged]
    generate, learn = batch.generate_seconds, watch.seconds.get("learn", 0.0)
    failed = len(batch.failed) + batch.unreadable
    metrics: dict[str, float | None] = {
        "step": step,
        "epoch": epoch,
        "reward/mean": _mean([score.total for score in scores]),
        "reward/zero_variance_fraction": _mean([g.zero_variance for g in judged]),
        "loss/policy": learned.get("loss/policy"),
        # Without a reference model the KL is undefined, not 0.
        "loss/kl": beta * learned["kl/ref"] if learned and beta else None,
        "kl/ref": learned["kl/ref"] if learned and beta else None,
        "completion/length_mean": _mean(lengths),
        "completion/truncated_fraction": _mean([c.stop_reason is StopReason.LENGTH for c in completions]),
        "groups/trained": ended[Verdict.TRAIN],
        "groups/zero_variance": ended[Verdict.ZERO_VARIANCE],
        "groups/stale": batch.stale,
        "groups/failed": failed + ended[Verdict.UNSCORED] + ended[Verdict.TRUNCATED],
        "staleness/mean": _mean(staleness),
        "staleness/max": max(staleness, default=None),
        "workers/alive": workers_alive,
        "samples/invalid": sum(not score.valid for g in judged for score in g.scores),
        "tokens/generated": sum(lengths),
        "tokens/generated_per_second": sum(lengths) / generate if generate else None,
        "tokens/trained_per_second": learned["tokens/trained"] / learn if learned and learn else None,
        "time/step": watch.total,
        # For a batch that started ahead, generation and reward ran during the steps before.
        "time/generate": generate,
        "time/reward": batch.reward_seconds,
        **{f"time/{name}": watch.seconds.get(name, 0.0) for name in ("learner_wait", "learn", "sync")},
    }
    for name in sorted({name for score in scores for name in score.rewards}):
        metrics[f"reward/{name}"] = _mean([score.rewards[name] for score in scores if name in score.rewards])
    # A step without an update has these too, without a value.
    return {"entropy": None, "ratio/mean": None, "ratio/clipped_fraction": None, **learned, **metrics}


def supervised_metrics(
    *,
    step: int,
    epoch: float,
    questions: int,
    failed: int,
    learned: Mapping[str, float],
    workers_alive: int,
    watch: Stopwatch,
) -> dict[str, float | None]:
    """Return the line of metrics.jsonl for one supervised step; metrics of reinforcement learning are None."""
    learn = watch.seconds.get("learn", 0.0)
    names = ("loss/total", "entropy", "grad_norm", "learning_rate", "tokens/trained", "tokens/computed")
    own = {name: value for name, value in learned.items() if name in names or name.startswith("learner/")}
    nonfinite = bool(learned.get("learner/nonfinite"))
    evaluated = {"eval/accuracy", "eval/accuracy_silence"}
    return {
        **{name: None for name in METRIC_NAMES if name not in evaluated},
        **own,
        "step": step,
        "epoch": epoch,
        "groups/trained": 0 if nonfinite else questions - failed,
        "groups/zero_variance": 0,
        "groups/stale": 0,
        "groups/failed": questions if nonfinite else failed,
        "workers/alive": workers_alive,
        "tokens/trained_per_second": learned["tokens/trained"] / learn if learned and learn else None,
        "time/step": watch.total,
        "time/learn": learn,
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
