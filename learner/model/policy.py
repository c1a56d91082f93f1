"""The policy: log-probabilities of the completions' tokens under the distribution that they were sampled from."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from learner.families.family import Family
from learner.model.attention import RowLayout
from learner.model.audio_cache import AudioCache
from learner.model.head import score_tokens
from learner.model.packing import EncodedPrompt, MicroBatch


class Policy(nn.Module):
    """An audio language model that scores packed micro-batches.

    Scores refer to the sampling distribution: `banned` tokens have probability 0, and logits are divided by
    `temperature`. The head runs on the N predicting positions only. With an `audio_cache` the audio tower gets no
    gradient and runs once per clip.
    """

    def __init__(
        self,
        family: Family,
        model: PreTrainedModel,
        *,
        banned: Sequence[int] = (),
        temperature: float = 1.0,
        audio_cache: AudioCache | None = None,
    ) -> None:
        super().__init__()
        self.family = family
        self.model = model
        self.temperature = temperature
        self.audio_cache = audio_cache
        allowed = torch.ones(family.vocabulary_size(model), dtype=torch.bool)
        allowed[list(banned)] = False
        self.register_buffer("allowed", allowed, persistent=False)
        self.allowed: torch.Tensor

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return natural log-probability and entropy (nats) of every token to predict, each float32, shape (N,)."""
        return score_tokens(
            self.family.head(self.model),
            self._hidden(batch),
            batch.targets.to(self.allowed.device),
            allowed=self.allowed,
            temperature=self.temperature,
        )

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        """Return raw logits, shape (N, V), of every predicting position: no banned tokens, temperature 1."""
        logits: torch.Tensor = self.family.head(self.model)(self._hidden(batch))
        return logits

    def _hidden(self, batch: MicroBatch) -> torch.Tensor:
        """Return the decoder's last hidden states at the predicting positions, shape (N, H)."""
        device = self.allowed.device
        decoder = self.family.decoder(self.model)
        embeddings = decoder.embed_tokens(batch.token_ids.to(device))
        audio = self._audio(batch.prompts).to(embeddings.dtype)
        hidden = decoder(
            inputs_embeds=embeddings.masked_scatter(batch.audio_mask.to(device)[..., None], audio),
            position_ids=self.family.position_ids(batch.position_ids.to(device)),
            # Given per layer type, so that transformers builds no mask; the layout defines the attention pattern.
            attention_mask={"full_attention": None},
            **RowLayout(batch.spans, device).arguments(),
            use_cache=False,
        ).last_hidden_state
        return hidden[0, batch.predictors.to(device)]  # type: ignore[no-any-return]

    def _audio(self, prompts: Sequence[EncodedPrompt]) -> torch.Tensor:
        """Return the concatenated embeddings of the prompts' clips, shape (ΣA, H). Rows of a prompt share its clip."""
        unique = {id(prompt): prompt for prompt in prompts}
        clips = list(unique.values())
        encoded = self._encode(clips) if self.audio_cache is None else self.audio_cache.get(clips, self._encode)
        by_prompt = dict(zip(unique, encoded, strict=True))
        return self.family.project(self.model, torch.cat([by_prompt[id(p)].to(self.allowed.device) for p in prompts]))

    def _encode(self, prompts: Sequence[EncodedPrompt]) -> list[torch.Tensor]:
        return self.family.encode(self.model, [p.mel for p in prompts], [p.valid_frames for p in prompts])
