"""What several of the learner's tests build and look at."""

import torch

from learner.families.registry import family_of
from learner.model.cost import DecoderCost
from learner.model.loading import load_model
from learner.model.policy import Policy
from learner.phase import Counts, TrainingPhase
from learner.settings import LearnerSettings, OptimizerSettings
from learner.training.engine import StepOutcome
from learner.training.trainer import Trainer

# A large epsilon keeps Adam's step in proportion to the gradient: with the usual 1e-8 the first step is its sign,
# and rounding alone decides it where a gradient is nearly zero.
STEADY = OptimizerSettings(learning_rate=1e-2, schedule="constant", adam_epsilon=1e-2, weight_decay=0.01)


def parameters_of(rank) -> dict[str, torch.Tensor]:
    """All weights as a checkpoint has them, copied."""
    from learner.model.weights import weights_of

    weights = weights_of(rank._family, rank._model)
    with rank.engine.whole([p for w in weights for p in w.parameters]):
        return {w.name: w.value().clone() for w in weights}


def counts_of(groups) -> Counts:
    lengths = [len(c.token_ids) for g in groups for c in g.completions]
    return Counts(len(lengths), sum(lengths))


class Gradients:
    """Stands in for DeepSpeed where a test compares gradients and not what an optimizer makes of them."""

    zero_stage = 0

    def __init__(self, policy) -> None:
        self.policy = policy

    def step(self, losses):
        for loss_of in losses:
            loss_of(self.policy).backward()
        return StepOutcome(0.0, 0.0, True)

    def taken(self) -> dict[str, torch.Tensor]:
        """The gradients by parameter; none are left behind."""
        found = {n: p.grad.clone() for n, p in self.policy.named_parameters() if p.grad is not None}
        self.policy.zero_grad()
        return found


def make_trainer(folder, phase: TrainingPhase, settings, device: str = "cpu", banned=()) -> Trainer:
    """A trainer on the model in `folder`, with a reference that is not the policy, in a world of one."""
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
    cost = DecoderCost.of(family.decoder(policy.model))
    policy, reference = policy.to(device), reference.to(device)
    return Trainer(policy, reference if phase.beta else None, Gradients(policy), chosen, phase, cost)
