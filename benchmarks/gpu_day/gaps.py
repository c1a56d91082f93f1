"""Differences between the log-probabilities that the engine sampled with and those that the learner computes."""

from benchmarks.gpu_day.inputs import questions_of
from benchmarks.gpu_day.plan import Home
from benchmarks.gpu_day.running import Findings, agree, ask, differences, running_learner, running_worker, summary
from protocol.rollout import Sampling


async def measure_gaps(home: Home) -> Findings:
    """Score what the engine sampled, with the checkpoint's weights on both sides."""
    sizes, questions = home.plan.sizes, questions_of(home)[: home.plan.sizes.questions]
    async with running_worker(home) as worker:
        groups = await ask(worker, questions, Sampling(sizes.group_size, sizes.max_tokens))
        async with running_learner(home) as learner:
            found = summary(differences(groups, await learner.score(groups)))
    home.report(", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    return Findings(
        checks={
            "within_bounds": agree(home, found),
            # The learner's weight of what was sampled; far from 1, training is off-policy from the first step.
            "unbiased": abs(found["mean_ratio"] - 1) < 0.05,
        },
        measured={"dtype": home.plan.dtype, "nats": found},
    )
