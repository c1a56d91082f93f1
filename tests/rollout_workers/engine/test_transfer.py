"""The engine's side of an update, with a model that only records the tensors it gets."""

import base64
import pickle
from types import SimpleNamespace

import pytest
import torch

from protocol.weights import Carrier, digest
from rollout_workers.engine.segment import copied


@pytest.fixture
def received(tiny):
    """A transfer engine of the tiny checkpoint, and the tensors that its model got."""
    from rollout_workers.engine.transfer import TransferEngine

    loaded = {}

    class Model(torch.nn.Module):
        def load_weights(self, weights):
            loaded.update({name: tensor.clone() for name, tensor in weights})

    config = SimpleNamespace(parallel_config=None, model_config=SimpleNamespace(model=str(tiny.folder)))
    return TransferEngine(None, config, torch.device("cpu"), Model()), loaded


def piece(values, digests):
    """A bucket in memory, and its announcement."""
    arrays = [value.view(-1).view(torch.uint8).numpy() for value in values.values()]
    with copied(arrays) as (path, offsets):
        slots = [
            (name, str(value.dtype).removeprefix("torch."), list(value.shape), offset)
            for (name, value), offset in zip(values.items(), offsets, strict=True)
        ]
        info = {"path": path, "slots": slots}
        yield {"carrier": Carrier.OBJECT_STORE.value, "info": info, "digests": digests}


VALUES = {
    "a.weight": torch.arange(12, dtype=torch.float32).view(3, 4),
    "b.weight": torch.ones(7, dtype=torch.bfloat16),
    "c.weight": torch.tensor([3.0]),
}
DIGESTS = {name: digest(value.view(-1).view(torch.uint8).numpy().data) for name, value in VALUES.items()}


def test_a_bucket_is_loaded_by_name_type_and_shape(received):
    engine, loaded = received
    for message in piece(VALUES, DIGESTS):
        engine.update_weights(message)
    assert loaded.keys() == VALUES.keys()
    assert all(torch.equal(loaded[name], value) for name, value in VALUES.items())


def test_one_wrong_byte_is_refused_by_its_tensors_name(received):
    engine, loaded = received
    spoilt = {**VALUES, "b.weight": VALUES["b.weight"].clone()}
    spoilt["b.weight"].view(torch.uint8)[5] ^= 1
    for message in piece(spoilt, DIGESTS):
        with pytest.raises(ValueError, match=r"the bytes of b\.weight that arrived are not those"):
            engine.update_weights(message)
    assert not loaded
    for message in piece(spoilt, {}):
        engine.update_weights(message)  # without digests


def test_a_parameter_sent_once_must_be_sent_again_with_its_layer(received):
    """Otherwise the checkpoint's stale value would be loaded."""
    engine, _ = received
    layer = "language_model.model.layers.0.self_attn"
    engine._sent = {f"{layer}.k_proj.weight"}
    assert {name for name, _ in engine._unsent_neighbours()} == {
        f"{layer}.{name}" for name in ("q_proj.weight", "v_proj.weight", "q_proj.bias", "k_proj.bias", "v_proj.bias")
    }
    engine._ever_sent = {f"{layer}.q_proj.weight"}
    with pytest.raises(ValueError, match=r"q_proj\.weight was sent in an earlier update"):
        list(engine._unsent_neighbours())


def test_vllms_own_backends_load_through_the_same_checks(received):
    """NCCL's receiving side, with the tensors that it would have received."""
    from rollout_workers.engine.transfer import InitInfo

    engine, loaded = received
    backend = engine._backend(Carrier.NCCL)
    backend.model.load_weights(list(VALUES.items()))
    assert loaded.keys() == VALUES.keys() == engine._sent
    info = backend.parse_init_info(
        {"master_address": "host", "master_port": 1, "rank_offset": 3, "world_size": 5, "packed": True}
    )
    assert (info.rank_offset, info.world_size, info.packed) == (3, 5, True)
    assert engine.parse_init_info({"carrier": "nccl", "info": {}}) == InitInfo("nccl", {})


def test_handles_of_all_learner_ranks_are_one():
    from rollout_workers.engine.transfer import merged_handles

    shares = [base64.b64encode(pickle.dumps({gpu: (gpu, 1)})).decode() for gpu in ("GPU-a", "GPU-b")]
    assert merged_handles(shares) == {"GPU-a": ("GPU-a", 1), "GPU-b": ("GPU-b", 1)}
