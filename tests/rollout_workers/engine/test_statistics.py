"""The statistics of a batch normalisation after weight updates, which bring its other tensors or none."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from rollout_workers.engine.segment import copied


class Normalised(torch.nn.Module):
    """A model as vLLM loads it, with a normalisation that training does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        self.batch_norm = torch.nn.BatchNorm1d(4)

    def load_weights(self, weights):
        from vllm.model_executor.models.utils import AutoWeightsLoader

        return AutoWeightsLoader(self).load_weights(weights)


@pytest.mark.parametrize(
    "sent", [["batch_norm.bias"], ["batch_norm.weight", "batch_norm.bias"], ["linear.weight"]], ids="+".join
)
def test_statistics_stay_whatever_is_sent(sent: list[str], tmp_path):
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

    from rollout_workers.engine.transfer import TransferEngine

    model = Normalised().eval()
    record_metadata_for_reloading(model)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(1 + torch.rand(tensor.shape) if tensor.is_floating_point() else 7)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    config = SimpleNamespace(parallel_config=None, model_config=SimpleNamespace(model=str(tmp_path)))
    engine = TransferEngine(None, config, torch.device("cpu"), model)
    for _ in range(2):
        new = {name: torch.rand_like(expected[name]) for name in sent}
        engine.start_weight_update()
        with copied([value.reshape(-1).view(torch.uint8).numpy() for value in new.values()]) as (path, offsets):
            slots = [(n, "float32", list(v.shape), at) for (n, v), at in zip(new.items(), offsets, strict=True)]
            engine.update_weights({"carrier": "object_store", "info": {"path": path, "slots": slots}})
        engine.finish_weight_update()
        expected |= new
        found = model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
