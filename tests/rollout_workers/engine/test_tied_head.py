"""A head that shares the embeddings' weight, and is therefore never sent, after a weight update."""

from pathlib import Path

import ray
import torch


def differences(folder: Path) -> tuple[float, float]:
    """Return how far embeddings and head are from the updated weight; runs in a process of its own for vLLM."""
    from types import SimpleNamespace

    import numpy as np
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

    from rollout_workers.engine.segment import copied
    from rollout_workers.engine.transfer import TransferEngine

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = VocabParallelEmbedding(64, 32)
            self.lm_head = ParallelLMHead(64, 32).tie_weights(self.embed_tokens)

        def load_weights(self, weights) -> None:
            parameters = dict(self.named_parameters())
            for name, value in weights:
                parameters[name].weight_loader(parameters[name], value)

    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"file://{folder}/meeting", 0, "gloo")
        initialize_model_parallel()
        model = Tied()
        record_metadata_for_reloading(model)
        torch.nn.init.normal_(model.embed_tokens.weight)
        for layer in (model.embed_tokens, model.lm_head):
            layer.quant_method.process_weights_after_loading(layer)
        settings = SimpleNamespace(parallel_config=None, model_config=SimpleNamespace(model=str(folder)))
        engine = TransferEngine(None, settings, torch.device("cpu"), model)
        new = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
        engine.start_weight_update()
        with copied([new.reshape(-1).view(np.uint8)]) as (path, (offset,)):
            slots = [("embed_tokens.weight", "float32", [64, 32], offset)]
            engine.update_weights({"carrier": "object_store", "info": {"path": path, "slots": slots}})
        engine.finish_weight_update()
        hidden, weight = torch.randn(5, 32), torch.from_numpy(new)
        embedded = model.embed_tokens(torch.arange(64)) - weight
        logits = model.lm_head.quant_method.apply(model.lm_head, hidden) - hidden @ weight.T
        return float(embedded.abs().max()), float(logits.abs().max())


def test_a_tied_head_has_the_embeddings_new_weight(cluster, tmp_path):
    embedded, logits = ray.get(ray.remote(num_cpus=1)(differences).remote(tmp_path), timeout=120)
    assert embedded == 0
    assert logits < 1e-4
