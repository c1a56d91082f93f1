"""The usual way to score completions: a padded row for each, with every clip encoded once per row at full length.

It uses transformers' forward, with the head on the completions' positions only. It is the baseline of
`learner_shared_prefix`.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from audio_qa.audio import SAMPLE_RATE, load_audio
from benchmarks.support.learner_workload import HEARS_SECONDS, PreparedWorkload


class PaddedRows:
    """All completions of a workload as one batch of rows."""

    def __init__(self, work: PreparedWorkload) -> None:
        self.model = Qwen2AudioForConditionalGeneration.from_pretrained(work.model, dtype=torch.float32).eval()
        self.model.model.audio_tower.embed_positions.requires_grad_(False)
        self._rows = self._inputs(work)
        completions = [c.token_ids for g in work.groups for c in g.completions]
        self._targets = torch.tensor([t for c in completions for t in c])
        prompts = [len(g.prompt_token_ids) for g in work.groups for _ in g.completions]
        # A token is predicted at the position before it.
        self._predictors = [torch.arange(p - 1, p + len(c) - 1) for p, c in zip(prompts, completions, strict=True)]

    def logprobs(self) -> torch.Tensor:
        """Return the log-probability of every token of every completion, in order, shape (N,), with gradient."""
        hidden = self.model.model(**self._rows, use_cache=False).last_hidden_state
        predicting = torch.cat([row[index] for row, index in zip(hidden, self._predictors, strict=True)])
        scores = self.model.lm_head(predicting).log_softmax(dim=-1)
        logprobs: torch.Tensor = scores.gather(1, self._targets[:, None])[:, 0]
        return logprobs

    def _inputs(self, work: PreparedWorkload) -> dict[str, torch.Tensor]:
        processor = AutoProcessor.from_pretrained(work.model)
        ids: list[torch.Tensor] = []
        features: list[torch.Tensor] = []
        masks: list[torch.Tensor] = []
        for text, group in zip(work.prompts, work.groups, strict=True):
            clip = load_audio(group.question.audio, max_seconds=HEARS_SECONDS, too_long="refuse")
            made = processor(text=[text], audio=[clip.samples], sampling_rate=SAMPLE_RATE, return_tensors="pt")
            for completion in group.completions:
                ids.append(torch.cat([made["input_ids"][0], torch.tensor(completion.token_ids)]))
                features.append(made["input_features"][0])
                masks.append(made["feature_attention_mask"][0])
        return {
            "input_ids": _padded(ids, 0),
            "attention_mask": _padded([torch.ones_like(row) for row in ids], 0),
            "input_features": torch.stack(features),
            "feature_attention_mask": torch.stack(masks),
        }


def _padded(rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    length = max(len(row) for row in rows)
    return torch.stack([pad(row, (0, length - len(row)), value=value) for row in rows])
