"""Ranks with unequal work take the step of a single rank, and call every module equally often under ZeRO-3.

Clips and answers differ in length, ranks have few rows or none, and the head works in pieces. Parameters of any size
are sharded: by default DeepSpeed keeps those of a tiny model whole, so that its collectives would be the same whatever
a rank computes. NCCL matches collectives by their order alone, so their order on the ranks is compared as well.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import ray
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from audio_qa.prompt import PromptTemplate
from learner.messages import BatchCounts, PhaseSettings
from learner.settings import LearnerSettings, OptimizerSettings, SharePrefix
from protocol.training import SupervisedExample, TrainingCompletion, TrainingGroup

pytestmark = pytest.mark.usefixtures("cluster")

# A large epsilon keeps Adam's step proportional to the gradient (see tests/learner/test_ranks.py).
OPTIMIZER = OptimizerSettings(learning_rate=1e-2, schedule="constant", adam_epsilon=1e-2, weight_decay=0.01)
MAX_TOKENS = 8
TOLERANCE = 1e-5
"""Largest difference of any parameter, after steps of about 1e-3 each, float32."""
SCORE_TOLERANCE = 2e-4
"""Largest difference of a log-probability after those steps."""
SENSITIVITY = 500
"""Largest change of a log-probability, in nats, for weights that change by 1. Granite Speech multiplies embeddings."""
Variant = tuple[str, dict[str, Any]]
FROZEN = {"train": {"audio_tower": False}}
VARIANTS: dict[str, Variant] = {
    "ZeRO-2": ("qwen2_audio", {"zero_stage": 2}),
    "ZeRO-3": ("qwen2_audio", {"zero_stage": 3}),
    "windows": ("qwen2_5_omni", {"zero_stage": 3}),
    "frozen tower, no cache": ("qwen2_audio", {"zero_stage": 3, **FROZEN, "audio_cache": {"memory_gib": 0}}),
    "recomputation, adapters": (
        "qwen2_audio",
        {"zero_stage": 3, "activation_checkpointing": True, "lora": {"rank": 4}},
    ),
}
MORE_VARIANTS: dict[str, Variant] = {
    "ZeRO-0": ("qwen2_audio", {"zero_stage": 0}),
    "ZeRO-1": ("qwen2_audio", {"zero_stage": 1}),
    "offloaded": ("qwen2_audio", {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}),
    "frozen tower": ("qwen2_audio", {"zero_stage": 3, **FROZEN}),
    "adapters": ("qwen2_audio", {"zero_stage": 3, "lora": {"rank": 4}}),
    "windows, recomputation": ("qwen2_5_omni", {"zero_stage": 3, "activation_checkpointing": True}),
    "experts": ("qwen3_omni_moe", {"zero_stage": 3}),
    "audioflamingo3": ("audioflamingo3", {"zero_stage": 3}),
    "glmasr": ("glmasr", {"zero_stage": 3}),
    "granite_speech": ("granite_speech", {"zero_stage": 3}),
}
"""Families and settings of the learner."""


@dataclass(frozen=True)
class Batch:
    """A batch of random work, and how it is divided."""

    groups: tuple[tuple[int, tuple[tuple[int, bool], ...]], ...]
    """Number of the question, and length of each completion and whether it counts."""
    updates: int
    tokens: int
    """Tokens of a micro-batch."""
    head_tokens: int
    """Tokens of a call of the head."""
    share: str
    supervised: bool


completions = st.tuples(st.integers(0, MAX_TOKENS), st.booleans())
batches = st.builds(
    Batch,
    groups=st.lists(st.tuples(st.integers(0, 3), st.lists(completions, min_size=1, max_size=8).map(tuple)), min_size=1)
    .map(lambda groups: tuple(groups[:4]))
    .filter(lambda groups: any(length for _, group in groups for length, _ in group)),
    updates=st.integers(1, 2),
    tokens=st.sampled_from([1, 150, 250, 10_000]),
    head_tokens=st.sampled_from([1, 3, 10, 1000]),
    share=st.sampled_from(["auto", "always", "never"]),
    supervised=st.booleans(),
)
SHARDING = ("zero_stage", "offload_optimizer", "offload_parameters")
EXAMPLES = int(os.environ.get("EARSHOT_EXAMPLES", "6"))
"""Random batches of each variant in `make slow`; a change of this area deserves 25 or more."""
UNEQUAL_CLIPS = Batch(tuple((i, ((5, True), (5, True))) for i in (3, 3, 3, 1)), 1, 10_000, 1000, "auto", False)
UNEQUAL_ANSWERS = Batch(((3, ((8, True),) * 3), (3, ((1, True),))), 2, 10_000, 3, "auto", False)
FEWER_ROWS_THAN_RANKS = Batch(((0, ((4, True), (2, False))),), 2, 1, 1, "always", False)
REPEATED_ROWS = Batch(((3, ((8, True),) * 8), *((0, ((2, True),)),) * 3), 2, 1, 1000, "always", False)
"""One rank's row is longer than three of the other's, and it repeats one of those twice."""
NOTHING_COUNTS = Batch(((0, ((4, False), (0, True))), (1, ((3, False),))), 1, 1, 2, "never", False)


class Rank:
    """A rank of a persistent process group, with every parameter sharded under ZeRO-3."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.collectives: list[str] = []
        self.calls: list[tuple[str, bool]] = []

    def address(self) -> tuple[str, int]:
        from learner.rank import LearnerRank

        return LearnerRank(0, 1, LearnerSettings()).address()

    def join(self, address: str, port: int) -> None:
        # DeepSpeed keeps references to torch's functions when it starts.
        for name in COLLECTIVES:
            setattr(torch.distributed, name, self.recorded(name, getattr(torch.distributed, name)))
        from learner.training import engine

        engine.join(self.rank, self.ranks, address, port, 60)

    def recorded(self, name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            given = [*arguments, *keywords.values()]
            tensors = [t for a in given for t in (a if isinstance(a, list) else [a]) if isinstance(t, torch.Tensor)]
            self.collectives.append(f"{name} {[(t.numel(), t.dtype) for t in tensors]}")
            return collective(*arguments, **keywords)

        return call

    def start(self, folder: str, chosen: dict[str, Any]) -> None:
        from learner.rank import LearnerRank
        from learner.training import engine

        if self.ranks > 1:
            engine.PERSISTENT_ELEMENTS = 0
        learner_settings = LearnerSettings.model_validate({"threads": 1, "beta": 0.04, "ranks": self.ranks, **chosen})
        self.learner = LearnerRank(self.rank, self.ranks, learner_settings)
        self.learner.start_phase(folder, PhaseSettings(OPTIMIZER, total_steps=1000, beta=0.04, max_tokens=MAX_TOKENS))
        if self.ranks > 1 and learner_settings.zero_stage == 3:
            record_calls(self.learner._trainer.policy, self.calls)

    def step(self, batch: Batch, groups: list[TrainingGroup]) -> tuple[dict[str, torch.Tensor], list[str], list[Any]]:
        """Take the updates of a batch. Return the weights after it, the collectives, and the calls of modules."""
        from learner.model import head
        from learner.model.weights import weights_of

        learner, trainer = self.learner, self.learner._trainer
        self.collectives.clear()
        self.calls.clear()
        head.CHUNK_ELEMENTS = batch.head_tokens * len(trainer.policy.allowed)
        trainer.micro_batch_tokens = batch.tokens
        loss = trainer._settings.loss.model_copy(update={"updates_per_batch": batch.updates})
        trainer._settings = trainer._settings.model_copy(
            update={"share_prefix": SharePrefix(batch.share), "loss": loss}
        )
        assert learner.prepare([(g.question, g.template) for g in groups]) == {}
        if batch.supervised:
            targets = [(g, " ".join("a" * len(c.token_ids))) for g in groups for c in g.completions]
            learner.supervise([SupervisedExample(g.question, g.template, target) for g, target in targets])
        else:
            lengths = [len(c.token_ids) for g in groups for c in g.completions if c.counts]
            learner.learn(groups, BatchCounts(len(lengths) or 1, sum(lengths) or 1))
        scores = learner.score(groups)
        collectives, calls = list(self.collectives), list(self.calls)
        weights = weights_of(learner._family, learner._model)
        with learner.engine.gathered([p for w in weights for p in w.parameters]):
            found = {w.name: w.value().clone() for w in weights if w.trainable}
        found["scores"] = torch.tensor([s for score in scores for s in score])
        return found, collectives, calls

    def close(self) -> None:
        self.learner.engine.close()


COLLECTIVES = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "reduce", "reduce_scatter", "reduce_scatter_tensor"),
    *("broadcast", "barrier", "all_to_all_single"),
)


def record_calls(policy: torch.nn.Module, calls: list[tuple[str, bool]]) -> None:
    """Record each gathering of a module's parameters: in the forward or in the backward pass, or recomputed."""
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    names = {module: name for name, module in policy.named_modules()}
    inner = getattr(PartitionedParameterCoordinator, "unrecorded", PartitionedParameterCoordinator.fetch_sub_module)

    def fetch(coordinator: Any, module: torch.nn.Module, forward: bool) -> None:
        calls.append((names[module], forward))
        inner(coordinator, module, forward=forward)

    PartitionedParameterCoordinator.unrecorded = inner
    PartitionedParameterCoordinator.fetch_sub_module = fetch


@pytest.fixture(scope="module")
def pair(cluster):
    """Two ranks in processes of their own."""
    ranks = [ray.remote(Rank).options(num_cpus=1).remote(rank, 2) for rank in range(2)]
    address, port = ray.get(ranks[0].address.remote(), timeout=120)
    ray.get([rank.join.remote(address, port) for rank in ranks], timeout=120)
    yield ranks
    for rank in ranks:
        ray.kill(rank)


@pytest.fixture
def check(alone, pair, tmp_path_factory, questions, request, monkeypatch):
    """Return a function that takes the same steps with one rank and with two, and compares them."""
    from support.families.tiny import write_tiny

    from learner.model import head

    monkeypatch.setattr(head, "CHUNK_ELEMENTS", head.CHUNK_ELEMENTS)  # restored after the test
    family, chosen = request.param
    folder = str(write_tiny(family, tmp_path_factory.mktemp("models")))
    single = Rank(0, 1)
    single.start(folder, {name: value for name, value in chosen.items() if name not in SHARDING})
    ray.get([rank.start.remote(folder, chosen) for rank in pair], timeout=120)

    def steps(batch: Batch) -> None:
        groups = groups_of(batch, questions, single.learner._encoded)
        expected, _, _ = single.step(batch, groups)
        answers = ray.get([rank.step.remote(batch, groups) for rank in pair], timeout=60)
        for found, collectives, calls in answers:
            assert found.keys() == expected.keys()
            differences = {n: float((found[n] - value).abs().max()) for n, value in expected.items() if len(value)}
            scores = differences.pop("scores")
            worst = max(differences, key=differences.get)
            assert differences[worst] < TOLERANCE, f"{worst}: {differences[worst]:.1e}"
            assert scores < max(SCORE_TOLERANCE, SENSITIVITY * differences[worst])
            assert collectives == answers[0][1]
            assert calls == answers[0][2]
            assert bool(calls) == (chosen["zero_stage"] == 3)
            assert any(name.startswith(("reduce", "all_reduce")) for name in collectives)

    yield steps
    single.close()
    ray.get([rank.close.remote() for rank in pair], timeout=60)


def groups_of(batch: Batch, questions, encode) -> list[TrainingGroup]:
    """Return training groups with random tokens and advantages, the same for equal batches."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for number, lengths in batch.groups:
        answers = []
        for length, counts in lengths:
            ids = tuple(torch.randint(20, 40, (length,), generator=generator).tolist())
            sampled = tuple((-3 * torch.rand(length, generator=generator)).tolist())
            advantage = float(torch.randn((), generator=generator))
            answers.append(TrainingCompletion(ids, sampled, advantage, counts))
        prompt = encode(questions[number], PromptTemplate.ANSWER).token_ids
        made.append(TrainingGroup(questions[number], PromptTemplate.ANSWER, prompt, tuple(answers), 0))
    return made


@pytest.mark.parametrize("check", VARIANTS.values(), ids=VARIANTS, indirect=True)
def test_ranks_with_unequal_work_take_the_step_of_one(check):
    for batch in (UNEQUAL_CLIPS, UNEQUAL_ANSWERS, FEWER_ROWS_THAN_RANKS, REPEATED_ROWS, NOTHING_COUNTS):
        check(batch)


@pytest.mark.slow
@pytest.mark.parametrize("check", (ALL := VARIANTS | MORE_VARIANTS).values(), ids=ALL, indirect=True)
def test_any_batch_is_learned_as_by_one_rank(check):
    # A failed example may have ended the ranks, so it is not repeated in smaller forms.
    @settings(max_examples=EXAMPLES, phases=[Phase.generate], derandomize=True, suppress_health_check=list(HealthCheck))
    @given(batches)
    def run(batch: Batch) -> None:
        check(batch)

    run()
