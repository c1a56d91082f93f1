"""A rank's updates: the same for shared and plain rows under every loss, without unnecessary work."""

from dataclasses import replace

import pytest
import torch
from support.learner import STEADY, counts_of, make_trainer, parameters_of

from learner.losses.settings import Algorithm
from learner.messages import PhaseSettings

VARIANTS = {
    **{name: {"algorithm": name} for name in Algorithm},
    "token correction": {"correction": {"level": "token", "bound": 1.5}},
    "sequence mask": {"correction": {"level": "sequence", "mode": "mask", "bound": 1e9}},
    "k1": {"kl": "k1"},
    "k2": {"kl": "k2"},
    "supervised": None,
}


@pytest.fixture(scope="module")
def gradients(alone, device, tiny_folder, groups, encoder):
    """Return a function that computes the gradient of one batch, with a reference that differs from the policy."""

    def of(variant, share_prefix, **settings):
        phase = PhaseSettings(STEADY, 4, temperature=0.9, beta=0.04, max_tokens=10)
        chosen = {"loss": variant or {}, "share_prefix": share_prefix, **settings}
        trainer = make_trainer(tiny_folder, phase, chosen, device)
        prompts = [encoder.encode(g.question, g.template) for g in groups]
        if variant is None:
            stats = trainer.supervise(prompts, [g.completions[0].token_ids for g in groups])
        else:
            stats = trainer.reinforce(prompts, groups, counts_of(groups))
        return trainer.engine.take(), stats

    return of


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_shared_and_plain_rows_have_the_same_gradients(gradients, variant):
    """The batch has clips and answers of odd lengths, an empty completion, and groups of different sizes."""
    (shared, stats), (plain, plain_stats) = (
        gradients(VARIANTS[variant], share, micro_batch_tokens=tokens)
        for share, tokens in (("always", 10_000), ("never", 350))
    )
    assert shared.keys() == plain.keys()
    assert any("audio_tower" in name for name in shared)
    norm = torch.sqrt(sum((g**2).sum() for g in plain.values()))
    assert norm > 1e-3
    for name, gradient in shared.items():
        assert (gradient - plain[name]).norm() < 1e-5 * norm, name
    assert stats.loss == pytest.approx(plain_stats.loss, rel=1e-5)
    assert stats.micro_batches < plain_stats.micro_batches
    if VARIANTS[variant] is not None:
        assert (stats.shared_groups, plain_stats.shared_groups) == (4, 0)
        assert stats.tokens_computed < plain_stats.tokens_computed / 2


STEPS = {
    "float32": ({"zero_stage": 0}, 1e-5),
    **{f"float32 ZeRO-{stage}": ({"zero_stage": stage}, 1e-5) for stage in (1, 2, 3)},
    "float32 ZeRO-2, optimizer offloaded": ({"zero_stage": 2, "offload_optimizer": True}, 1e-5),
    **{f"bfloat16 ZeRO-{stage}": ({"zero_stage": stage, "dtype": "bfloat16"}, 0.05) for stage in (1, 2, 3)},
    "bfloat16 ZeRO-2, optimizer offloaded": ({"zero_stage": 2, "offload_optimizer": True, "dtype": "bfloat16"}, 0.05),
}


@pytest.mark.parametrize("settings", STEPS, ids=str)
@pytest.mark.parametrize("share", ["always", "never"])
def test_a_step_equals_adamw_on_the_gradient(make_rank, first_step_on_the_cpu, groups, settings, share):
    """DeepSpeed on the learner's device is compared with torch's AdamW on the clipped gradient, float32 on the CPU."""
    chosen, bound = STEPS[settings]
    rank = make_rank(share_prefix=share, **chosen)
    first = masters_of(rank)
    stats = rank.learn(groups, counts_of(groups))
    moved = {name: value - first[name] for name, value in masters_of(rank).items()}
    expected, norm = first_step_on_the_cpu
    distance = sum(float((moved[name] - expected[name]).square().sum()) for name in expected) ** 0.5
    error = distance / sum(float(value.square().sum()) for value in expected.values()) ** 0.5
    print(f"{settings}, sharing {share}, on {rank.engine.deepspeed.device}: {error:.1e}, norm {stats.grad_norm:.4f}")
    assert error < bound
    assert stats.grad_norm == pytest.approx(norm, rel=bound)


def masters_of(rank) -> dict[str, torch.Tensor]:
    """Return the master copies that AdamW steps, by parameter, float32 on the CPU."""
    from learner.training.optimizer_state import MASTER, link_state, read_state

    link_state(rank.engine)
    trained = [(name, p) for name, p in rank._model.named_parameters() if p.requires_grad]
    return {name: read_state(rank.engine, p)[MASTER].detach().float().cpu().clone() for name, p in trained}


@pytest.fixture(scope="module")
def first_step_on_the_cpu(alone, tiny_folder, banned, groups, encoder):
    """AdamW's update of each parameter in a first step, and the gradient's norm."""
    trainer = make_trainer(tiny_folder, PhaseSettings(STEADY, 4, max_tokens=10), {}, banned=banned)
    trainer.reinforce([encoder.encode(g.question, g.template) for g in groups], groups, counts_of(groups))
    model = trainer.policy.model
    trained = {name: p for name, p in model.named_parameters() if p.grad is not None}
    norm = float(torch.nn.utils.clip_grad_norm_(trained.values(), STEADY.max_grad_norm))
    before = {name: p.detach().clone() for name, p in trained.items()}
    matrices, rest = [p for p in trained.values() if p.ndim > 1], [p for p in trained.values() if p.ndim <= 1]
    torch.optim.AdamW(
        [{"params": matrices, "weight_decay": STEADY.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=STEADY.learning_rate,
        eps=STEADY.adam_epsilon,
    ).step()
    return {name: p.detach() - before[name] for name, p in trained.items()}, norm


def test_a_masked_completion_has_no_gradient(gradients, groups, encoder, tiny_folder, alone):
    """The gradient is the same as without the completion, whatever its advantage."""

    def of(batch):
        trainer = make_trainer(tiny_folder, PhaseSettings(STEADY, 4, max_tokens=10), {})
        trainer.reinforce([encoder.encode(g.question, g.template) for g in batch], batch, counts_of(groups[:1]))
        return trainer.engine.take()

    first, second = groups[:2]
    masked = replace(second, completions=tuple(replace(c, counts=False) for c in second.completions))
    with_masked, without = of([first, masked]), of([first])
    for name, gradient in without.items():
        assert (with_masked[name] - gradient).abs().max() < 1e-7, name


def test_no_unnecessary_forwards(make_rank, groups, monkeypatch):
    """One update without KL takes one forward of one model, and none for old log-probabilities or a reference."""
    rank = make_rank(beta=0.0)
    trainer = rank._trainer
    assert trainer.reference is None
    forwards = []
    inner = trainer.policy.forward
    monkeypatch.setattr(trainer.policy, "forward", lambda batch: forwards.append(batch.tokens) or inner(batch))
    stats = rank.learn(groups, counts_of(groups))
    assert sum(forwards) == stats.tokens_computed == sum(len(g.prompt_token_ids) for g in groups) + stats.tokens
    assert stats.clipped == 0


def test_several_updates_compute_the_reference_once(make_rank, groups, monkeypatch):
    rank = make_rank(beta=0.04, loss={"updates_per_batch": 3})
    trainer = rank._trainer
    calls = {"policy": 0, "reference": 0}
    for name in calls:
        model = getattr(trainer, name)

        def counting(batch, name=name, inner=model.forward):
            calls[name] += 1
            return inner(batch)

        monkeypatch.setattr(model, "forward", counting)
    stats = rank.learn(groups, counts_of(groups))
    assert stats.updates == 3
    assert calls == {"policy": 3, "reference": 1}


def test_later_updates_are_clipped_against_the_batchs_start(make_rank, groups):
    """With a large step ratios leave the bounds: the second update of a batch clips, the first does not."""
    large = STEADY.model_copy(update={"learning_rate": 0.1})
    one, three = (
        make_rank(
            PhaseSettings(large, 4, max_tokens=10), loss={"updates_per_batch": n, "clip_low": 0.01, "clip_high": 0.01}
        )
        for n in (1, 3)
    )
    counts = counts_of(groups)
    assert one.learn(groups, counts).clipped == 0
    assert three.learn(groups, counts).clipped > 0
    assert three.engine.step_count == 3


@pytest.mark.parametrize(
    ("settings", "bad"),
    [
        ({"zero_stage": 0}, float("nan")),
        ({"zero_stage": 0}, float("inf")),
        ({"zero_stage": 1}, float("nan")),
        ({"zero_stage": 2}, float("nan")),
        ({"zero_stage": 3}, float("nan")),
        ({"dtype": "bfloat16"}, float("nan")),
        ({"zero_stage": 2, "dtype": "bfloat16"}, float("nan")),
        ({"zero_stage": 3, "dtype": "bfloat16"}, float("nan")),
        ({"zero_stage": 2, "offload_optimizer": True}, float("nan")),
    ],
    ids=str,
)
def test_a_non_finite_loss_changes_nothing(make_rank, groups, settings, bad):
    """The step is skipped, and the next one is the same as without it."""
    counts = counts_of(groups)
    poison = [
        replace(groups[0], completions=tuple(replace(c, advantage=bad) for c in groups[0].completions)),
        *groups[1:],
    ]
    disturbed, undisturbed = make_rank(**settings), make_rank(**settings)
    before = parameters_of(disturbed)
    for rank in (disturbed, undisturbed):
        rank.learn(groups, counts)
    first = parameters_of(disturbed)
    assert any(not torch.equal(first[n], before[n]) for n in before)
    stats = disturbed.learn(poison, counts)
    assert (stats.updates, stats.nonfinite) == (0, 1)
    assert all(torch.equal(value, first[name]) for name, value in parameters_of(disturbed).items())
    undisturbed.skip(1)
    for rank in (disturbed, undisturbed):
        assert rank.learn(groups, counts).updates == 1
    expected = parameters_of(undisturbed)
    assert all(torch.equal(value, expected[name]) for name, value in parameters_of(disturbed).items())


@pytest.mark.parametrize(
    ("train", "moved"),
    [
        ({"audio_tower": False}, {"multi_modal_projector", "language_model"}),
        ({"audio_tower": False, "projector": False}, {"language_model"}),
        ({"language_model": False}, {"audio_tower", "multi_modal_projector"}),
        ({"language_model": False, "audio_tower": False}, {"multi_modal_projector"}),
    ],
)
def test_frozen_parts_do_not_change(make_rank, groups, train, moved):
    rank = make_rank(train=train)
    before = parameters_of(rank)
    rank.learn(groups, counts_of(groups))
    after = parameters_of(rank)
    assert {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])} == moved


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}], ids=["full", "LoRA"])
def test_activation_checkpointing_changes_nothing(make_rank, groups, lora):
    updated = []
    for checkpointing in (False, True):
        rank = make_rank(activation_checkpointing=checkpointing, lora=lora, beta=0.04)
        rank.learn(groups, counts_of(groups))
        updated.append(parameters_of(rank))
    assert all(torch.equal(updated[0][n], updated[1][n]) for n in updated[0])


def test_bfloat16_keeps_master_weights(make_rank, groups):
    """Steps far below the resolution of bfloat16 accumulate in the master weights."""
    tiny_steps = STEADY.model_copy(update={"learning_rate": 1e-5, "weight_decay": 0.0})
    rank = make_rank(PhaseSettings(tiny_steps, 30, max_tokens=10), dtype="bfloat16")
    from learner.training.optimizer_state import MASTER, read_state

    name, parameter = next((n, p) for n, p in rank._model.named_parameters() if n.endswith("0.self_attn.q_proj.weight"))
    assert parameter.dtype == torch.bfloat16
    before = read_state(rank.engine, parameter)[MASTER].clone()
    for _ in range(3):
        rank.learn(groups, counts_of(groups))
    after = read_state(rank.engine, parameter)[MASTER]
    moved = (after - before).abs()
    assert after.dtype == torch.float32
    assert 0 < moved.max() < 1e-4, name
    assert torch.equal(after.bfloat16(), parameter.detach())
