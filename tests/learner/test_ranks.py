"""The update is the same for any split of the batch, on one or two ranks, under every ZeRO stage.

Every run also checks that published weights equal saved weights.
"""

import asyncio
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file

from learner.errors import LearnerError
from learner.group import LearnerGroup
from learner.messages import BatchCounts, PhaseSettings
from learner.metrics import step_metrics
from learner.settings import LearnerSettings, OptimizerSettings
from protocol.training import SupervisedExample, TrainingGroup
from protocol.weights import digest

pytestmark = pytest.mark.usefixtures("cluster")

# A large epsilon keeps Adam's step proportional to the gradient: with the usual 1e-8 the first step is the sign of the
# gradient, which rounding decides for gradients near zero.
OPTIMIZER = OptimizerSettings(learning_rate=1e-2, schedule="constant", adam_epsilon=1e-2, weight_decay=0.01)
PHASE = PhaseSettings(OPTIMIZER, total_steps=2, beta=0.04)
DEPENDS_ON_SPLIT = {"tokens/computed", "learner/micro_batches", "learner/shared_fraction"}
"""Metrics that do depend on the split."""
TOLERANCE = 2e-6
"""Largest difference of any parameter after two steps of about 1e-3 each, float32."""


def read_shared_memory(update) -> dict[str, torch.Tensor]:
    """Read the tensors in shared memory as a rollout worker does."""
    from support.memory_reader import Reader  # the ranks' processes import this file, but cannot import that one

    from rollout_workers.engine.bucket import digest_of

    reader = Reader(update.address)
    found = reader.read()
    reader.socket.close()
    assert update.version == reader.announcement.version == 7
    assert reader.digests == {name: digest_of(value) for name, value in found.items()}
    return {name: value.clone() for name, value in found.items()}


COUNTS = BatchCounts(sequences=11, tokens=40)


def unpacked(put) -> dict[str, torch.Tensor]:
    """Return the tensors in some buckets, by name."""
    tensors = {}
    for placed in put:
        for slot, data in zip(placed.bucket.slots, ray.get(placed.bucket.data), strict=True):
            assert len(data) == slot.nbytes
            assert slot.digest == digest(data.data)
            tensors[slot.name] = torch.from_numpy(data.copy()).view(getattr(torch, slot.dtype)).reshape(slot.shape)
    return tensors


class Rank:
    """A process of a persistent process group. Every run in it creates a new LearnerRank."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks

    def join(self, address: str, port: int) -> None:
        from learner.training.engine import join

        join(self.rank, self.ranks, address, port, 60)

    def address(self) -> tuple[str, int]:
        from learner.rank import LearnerRank

        return LearnerRank(0, 1, LearnerSettings()).address()

    def train(self, model: str, groups, folder: str, phase: PhaseSettings, settings: LearnerSettings):
        from learner.rank import LearnerRank

        rank = LearnerRank(self.rank, self.ranks, settings)
        rank.start_phase(model, phase)
        stats = []
        for _ in range(phase.total_steps):
            assert rank.prepare([(g.question, g.template) for g in groups]) == {}
            stats.append(rank.learn(groups, COUNTS))
        Path(folder).mkdir(exist_ok=True)
        rank.save(folder, state=False)
        rank.wait_saved()
        published = unpacked(rank.publish(checksums=True))
        shared = rank.publish_shared_memory(7, checksums=True)
        assert (shared is None) == (self.rank > 0), "the first rank publishes for all"
        self.memory = rank._shared
        rank.engine.close()
        return stats, published, shared

    def release(self) -> None:
        """Free the shared memory of the last run."""
        self.memory.close()

    def halves(self, model: str, groups, folder: str, settings: LearnerSettings, *, second: bool):
        """Take the first step and save, or take the second step from that checkpoint.

        Return the weights after it, and the bytes of the training state that were read.
        """
        from learner.checkpoint.slices import TensorSlices
        from learner.model.weights import weights_of
        from learner.rank import LearnerRank

        rank = LearnerRank(self.rank, self.ranks, settings)
        inner, read = TensorSlices._bytes, []
        TensorSlices._bytes = lambda *arguments: read.append(arguments[1]) or inner(*arguments)
        rank.start_phase(model, PHASE, folder if second else None)
        TensorSlices._bytes = inner
        rank.prepare([(g.question, g.template) for g in groups])
        rank.learn(groups, COUNTS)
        if not second:
            rank.save(folder, state=True)
            rank.wait_saved()
            torch.distributed.barrier()
            rank.check_saved(folder)
        weights = weights_of(rank._family, rank._model)
        with rank.engine.gathered([p for w in weights for p in w.parameters]):
            values = {w.name: w.value().clone() for w in weights}
        rank.engine.close()
        return values, sum(read)

    def gathered(self, model: str, settings: LearnerSettings, bucket_bytes: int) -> tuple[int, int, int]:
        """Publish under ZeRO-3. Return the peak of gathered bytes, the published bytes, and the largest weight's."""
        from learner.model.weights import numel, weights_of
        from learner.rank import LearnerRank
        from learner.weight_sync import publish

        rank = LearnerRank(self.rank, self.ranks, settings)
        rank.start_phase(model, PHASE)
        most, inner = 0, rank.engine.gathered
        parameters = list(rank._model.parameters())

        @contextmanager
        def watched(wanted):
            nonlocal most
            with inner(wanted):
                # Full parameters on this rank: beyond its own share, only the requested ones.
                most = max(most, sum(p.numel() * p.element_size() for p in parameters if p.numel() == p.ds_numel))
                yield

        rank.engine.gathered = watched
        persistent = sum(p.numel() * p.element_size() for p in parameters if p.numel() == p.ds_numel)
        put = publish.publish(rank.engine, rank._family, rank._model, bucket_bytes)
        published = sum(slot.nbytes for placed in put for slot in placed.bucket.slots)
        largest = max(numel(w.parameters[0]) * 4 for w in weights_of(rank._family, rank._model))
        rank.engine.close()
        return most - persistent, published, largest


@pytest.fixture(scope="module")
def worlds(cluster):
    """Process groups of one and of two processes over gloo."""
    made = {}
    for size in (1, 2):
        made[size] = [ray.remote(Rank).options(num_cpus=1).remote(rank, size) for rank in range(size)]
    for ranks in made.values():
        address, port = ray.get(ranks[0].address.remote(), timeout=120)
        ray.get([rank.join.remote(address, port) for rank in ranks], timeout=120)
    yield made
    for rank in (rank for ranks in made.values() for rank in ranks):
        ray.kill(rank)


@pytest.fixture(scope="module")
def train(worlds, tiny_folder, groups, tmp_path_factory):
    """Return a function that takes two steps from the same checkpoint: the parameters after them, and the metrics."""

    def run(phase=PHASE, ranks=1, **settings):
        folder = tmp_path_factory.mktemp("trained") / "after"
        chosen = LearnerSettings(threads=1, beta=phase.beta, ranks=ranks, **settings)
        calls = [rank.train.remote(str(tiny_folder), groups, str(folder), phase, chosen) for rank in worlds[ranks]]
        answers = ray.get(calls, timeout=120)
        metrics = [step_metrics(step) for step in zip(*(stats for stats, *_ in answers), strict=True)]
        saved = {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
        published = {name: value for _, share, _ in answers for name, value in share.items()}
        shared = answers[0][2]
        assert shared.audio_changed
        in_memory = read_shared_memory(shared)
        ray.get(worlds[ranks][0].release.remote(), timeout=60)
        assert in_memory.keys() == published.keys()
        assert all(torch.equal(in_memory[name], published[name]) for name in published)
        assert set(saved) - set(published) == {"audio_tower.embed_positions.weight"}, (
            "exactly the trainable weights are published"
        )
        assert all(torch.equal(saved[name], published[name]) for name in published)
        return saved, metrics

    return run


@pytest.fixture(scope="module")
def whole(train):
    return train()


@pytest.mark.parametrize(
    "settings",
    [
        {"micro_batch_tokens": 1},
        {"micro_batch_tokens": 300},
        {"share_prefix": "never", "micro_batch_tokens": 400},
        {"zero_stage": 1},
        {"zero_stage": 2},
        {"zero_stage": 3, "micro_batch_tokens": 300},
        {"ranks": 2},
        {"ranks": 2, "micro_batch_tokens": 1},
        {"ranks": 2, "zero_stage": 1, "micro_batch_tokens": 1},
        {"ranks": 2, "zero_stage": 2, "micro_batch_tokens": 1},
        {"ranks": 2, "zero_stage": 3, "micro_batch_tokens": 1},
    ],
    ids=lambda settings: ",".join(f"{k}={v}" for k, v in settings.items()),
)
def test_the_update_does_not_depend_on_the_split(train, whole, settings):
    parameters, metrics = train(**settings)
    expected, expected_metrics = whole
    assert parameters.keys() == expected.keys()
    difference = max(float((parameters[name] - expected[name]).abs().max()) for name in expected)
    assert difference < TOLERANCE, f"largest difference {difference:.1e}"
    for ours, theirs in zip(metrics, expected_metrics, strict=True):
        for name in theirs.keys() - DEPENDS_ON_SPLIT:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4, abs=1e-6), name


def test_the_update_changes_every_part(tiny_folder, whole):
    before, (after, _) = load_file(tiny_folder / "model.safetensors"), whole
    for part in ("audio_tower.conv1", "multi_modal_projector", "language_model.model", "language_model.lm_head"):
        moved = max(float((after[n] - before[n]).abs().max()) for n in before if n.startswith(part))
        assert moved > 1e-4, part
    assert torch.equal(after["audio_tower.embed_positions.weight"], before["audio_tower.embed_positions.weight"])


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_gradients_are_clipped(train, tiny_folder, whole, zero_stage):
    small = PhaseSettings(OPTIMIZER.model_copy(update={"max_grad_norm": 1e-3}), total_steps=2, beta=0.04)
    clipped, metrics = train(phase=small, zero_stage=zero_stage)
    before = load_file(tiny_folder / "model.safetensors")
    head = "language_model.lm_head.weight"
    assert metrics[0]["grad_norm"] > 0.1
    assert (clipped[head] - before[head]).abs().max() < (whole[0][head] - before[head]).abs().max() / 5


def test_a_prompt_encoded_differently_is_refused(tiny_folder, groups):
    group = groups[0]
    wrong = TrainingGroup(
        group.question, group.template, group.prompt_token_ids[:-1], group.completions, group.weight_version
    )

    async def run():
        learner = LearnerGroup(LearnerSettings(threads=1, beta=0))
        try:
            await learner.start()
            await learner.start_phase(str(tiny_folder), PhaseSettings(OPTIMIZER, 1))
            await learner.learn([wrong], BatchCounts(2, 10))
        finally:
            await learner.stop()

    with pytest.raises(LearnerError, match="prompt tokens"):
        asyncio.run(run())


def test_supervised_steps_learn_their_targets(tiny_folder, questions):
    examples = [SupervisedExample(q, "2", "<answer>two</answer>") for q in questions]

    async def run():
        learner = LearnerGroup(LearnerSettings(threads=1, beta=0))
        try:
            await learner.start()
            # The ranks write checkpoints into the run directory, so they must be able to read its files.
            await learner.check_file_visible(str(tiny_folder / "config.json"))
            with pytest.raises(LearnerError, match=r"/nowhere/job\.yaml does not exist on [\d.]+, where"):
                await learner.check_file_visible("/nowhere/job.yaml")
            optimizer = OptimizerSettings(learning_rate=1e-3, schedule="constant")
            await learner.start_phase(str(tiny_folder), PhaseSettings(optimizer, 30))
            return [(await learner.supervise(examples)).metrics["loss/total"] for _ in range(30)]
        finally:
            await learner.stop()

    losses = asyncio.run(run())
    assert losses[0] > 5
    assert losses[-1] < 0.1


@pytest.mark.parametrize(
    ("zero_stage", "first", "then"), [(0, 2, 1), (0, 1, 2), (1, 2, 2), (2, 1, 2), (3, 2, 1), (3, 1, 2), (3, 2, 2)]
)
def test_any_number_of_ranks_resumes_and_each_reads_its_share(
    worlds, whole, tiny_folder, groups, tmp_path, zero_stage, first, then
):
    for ranks, second in ((first, False), (then, True)):
        settings = LearnerSettings(threads=1, beta=PHASE.beta, ranks=ranks, zero_stage=zero_stage)
        arguments = str(tiny_folder), groups, str(tmp_path), settings
        answers = ray.get([rank.halves.remote(*arguments, second=second) for rank in worlds[ranks]], timeout=120)
    weights = answers[0][0]
    difference = max(float((weights[name] - value).abs().max()) for name, value in whole[0].items())
    assert difference < TOLERANCE, f"largest difference {difference:.1e}"
    saved = sum(file.stat().st_size for file in tmp_path.glob("training_state/*.safetensors"))
    for _, read in answers:
        assert read == pytest.approx(saved / then if zero_stage else saved, rel=0.1)


def test_publishing_under_zero_3_gathers_a_bucket_at_a_time(worlds, tiny_folder):
    limit = 256 * 1024
    settings = LearnerSettings(threads=1, beta=PHASE.beta, ranks=2, zero_stage=3)
    answers = ray.get([r.gathered.remote(str(tiny_folder), settings, limit) for r in worlds[2]], timeout=120)
    total = sum(published for _, published, _ in answers)
    for peak, published, largest in answers:
        assert 0 < peak <= max(limit, largest), "never more than one bucket"
        assert peak < total / 8
        assert published < 0.7 * total, "the ranks take turns"
