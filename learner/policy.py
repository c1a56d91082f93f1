"""The model as the learner uses it: log-probabilities of completions' tokens, computed as they were sampled."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from learner.audio_tower import embed_clips
from learner.packing import MicroBatch


class Policy(nn.Module):
    """A Qwen2-Audio that scores packed micro-batches.

    Scores are of the distribution that was sampled: `banned` tokens cannot occur, and logits are divided by
    `temperature`. The head runs on the N predicting positions only.
    """

    def __init__(self, model: PreTrainedModel, *, banned: Sequence[int] = (), temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        vocabulary_size = model.config.text_config.vocab_size
        allowed = torch.ones(vocabulary_size, dtype=torch.bool)
        allowed[list(banned)] = False
        self.register_buffer("allowed", allowed, persistent=False)
        self.allowed: torch.Tensor

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Natural log-probability and entropy (nats), each float32 of shape (N,), of every token to predict.

        A banned token, which no rollout worker samples, scores 0 and has no gradient: it cannot break a batch.
        """
        logits = self.logits(batch).float()
        logits = logits.masked_fill(~self.allowed, -torch.inf) / self.temperature
        log_distribution = logits.log_softmax(dim=-1)
        targets = batch.targets.to(logits.device)
        possible = self.allowed[targets]
        # A banned token has no finite score; any allowed one stands in for it, and its score is then taken out again.
        stand_in = torch.where(possible, targets, self.allowed.int().argmax())
        logprobs = log_distribution.gather(1, stand_in[:, None])[:, 0]
        logprobs = torch.where(possible, logprobs, torch.zeros_like(logprobs))
        with torch.no_grad():
            entropy = -(log_distribution.exp() * log_distribution.masked_fill(~self.allowed, 0.0)).sum(dim=-1)
        return logprobs, entropy

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        """Raw logits, shape (N, V), of every position that predicts a token: nothing banned, temperature 1."""
        inner = self.model.model
        device = self.allowed.device
        clips = embed_clips(inner.audio_tower, inner.multi_modal_projector, batch.mels, batch.valid_frames)
        embeddings = inner.language_model.embed_tokens(batch.token_ids.to(device))
        audio = torch.cat(clips).to(embeddings.dtype)
        embeddings = embeddings.masked_scatter(batch.audio_mask.to(device)[..., None], audio)
        hidden = inner.language_model(
            inputs_embeds=embeddings,
            position_ids=batch.position_ids.to(device),
            attention_mask={"full_attention": batch.attention_mask().to(device)},
            use_cache=False,
        ).last_hidden_state
        return self.model.lm_head(hidden.flatten(0, 1)[batch.predictors.to(device)])  # type: ignore[no-any-return]
