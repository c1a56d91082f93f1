"""Shared helpers of the learner's tests."""

import torch

from learner.families.registry import family_of
from learner.messages import BatchCounts, PhaseSettings
from learner.model.flops import DecoderFlops
from learner.model.loading import load_model
from learner.model.policy import Policy
from learner.settings import LearnerSettings, OptimizerSettings
from learner.training.engine import StepOutcome
from learner.training.trainer import Trainer

# A large epsilon keeps Adam's step proportional to the gradient: with the usual 1e-8 the first step is the sign of the
# gradient, which rounding decides for gradients near zero.
STEADY = OptimizerSettings(learning_rate=1e-2, schedule="constant", adam_epsilon=1e-2, weight_decay=0.01)


def parameters_of(rank) -> dict[str, torch.Tensor]:
    """Return copies of all weights, in the form of a checkpoint."""
    from learner.model.weights import weights_of

    weights = weights_of(rank._family, rank._model)
    with rank.engine.gathered([p for w in weights for p in w.parameters]):
        return {w.name: w.value().clone() for w in weights}


def counts_of(groups) -> BatchCounts:
    lengths = [len(c.token_ids) for g in groups for c in g.completions]
    return BatchCounts(len(lengths), sum(lengths))


class Gradients:
    """A replacement of the DeepSpeed engine for tests that compare gradients instead of updates."""

    zero_stage = 0

    def __init__(self, policy) -> None:
        self.policy = policy

    def step(self, losses):
        for loss_of in losses:
            loss_of(self.policy).backward()
        return StepOutcome(0.0, 0.0, True)

    def take(self) -> dict[str, torch.Tensor]:
        """Return the gradients by parameter, and reset them."""
        found = {n: p.grad.clone() for n, p in self.policy.named_parameters() if p.grad is not None}
        self.policy.zero_grad()
        return found


def make_trainer(folder, phase: PhaseSettings, settings, device: str = "cpu", banned=()) -> Trainer:
    """Return a trainer of one rank on the model in `folder`, with a reference that differs from the policy."""
    family, chosen = (
        family_of(str(folder)),
        LearnerSettings.model_validate({"threads": 1, "beta": phase.beta, **settings}),
    )
    policy, reference = (
        Policy(family, load_model(family, str(folder), "float32"), banned=banned, temperature=phase.temperature)
        for _ in range(2)
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    cost = DecoderFlops.of(family.decoder(policy.model))
    policy, reference = policy.to(device), reference.to(device)
    return Trainer(policy, reference if phase.beta else None, Gradients(policy), chosen, phase, cost)
