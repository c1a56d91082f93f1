"""What several of the learner's tests build and look at."""

import torch

from learner.phase import Counts, Phase
from learner.settings import LearnerSettings, OptimizerSettings

# A large epsilon keeps Adam's step in proportion to the gradient: with the usual 1e-8 the first step is its sign,
# and rounding alone decides it where a gradient is nearly zero.
STEADY = OptimizerSettings(learning_rate=1e-2, schedule="constant", adam_epsilon=1e-2, weight_decay=0.01)


def parameters_of(rank) -> dict[str, torch.Tensor]:
    """All weights as a checkpoint has them, copied."""
    from learner.weights import weights_of

    weights = weights_of(rank._family, rank._model)
    with rank.engine.whole([p for w in weights for p in w.parameters]):
        return {w.name: w.value().clone() for w in weights}


def counts_of(groups) -> Counts:
    lengths = [len(c.token_ids) for g in groups for c in g.completions]
    return Counts(len(lengths), sum(lengths))


def make_trainer(folder, phase: Phase, settings):
    """A rank's trainer on the model in `folder`, with a reference that is not the policy; call it in a world of one."""
    from learner.rank import LearnerRank

    rank = LearnerRank(0, 1, LearnerSettings.model_validate({"threads": 1, "beta": phase.beta, **settings}))
    rank.begin(str(folder), phase)
    if rank._trainer.reference is not None:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in rank._trainer.reference.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    rank.engine.close()
    return rank._trainer
