"""The model as the learner uses it: log-probabilities of completions' tokens, computed as they were sampled."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from learner.families.family import Family
from learner.model.attention import RowLayout
from learner.model.audio_memory import AudioMemory
from learner.model.head import score_tokens
from learner.model.packing import EncodedPrompt, MicroBatch


class Policy(nn.Module):
    """An audio language model that scores packed micro-batches.

    Scores are of the distribution that was sampled: `banned` tokens cannot occur, and logits are divided by
    `temperature`. The head runs on the N predicting positions only. With a `memory` the audio tower gets no gradient,
    and runs once a clip.
    """

    def __init__(
        self,
        family: Family,
        model: PreTrainedModel,
        *,
        banned: Sequence[int] = (),
        temperature: float = 1.0,
        memory: AudioMemory | None = None,
    ) -> None:
        super().__init__()
        self.family = family
        self.model = model
        self.temperature = temperature
        self.memory = memory
        allowed = torch.ones(family.vocabulary_size(model), dtype=torch.bool)
        allowed[list(banned)] = False
        self.register_buffer("allowed", allowed, persistent=False)
        self.allowed: torch.Tensor

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Natural log-probability and entropy (nats), each float32 of shape (N,), of every token to predict."""
        return score_tokens(
            self.family.head(self.model),
            self._hidden(batch),
            batch.targets.to(self.allowed.device),
            allowed=self.allowed,
            temperature=self.temperature,
        )

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        """Raw logits, shape (N, V), of every position that predicts a token: nothing banned, temperature 1."""
        logits: torch.Tensor = self.family.head(self.model)(self._hidden(batch))
        return logits

    def _hidden(self, batch: MicroBatch) -> torch.Tensor:
        """The decoder's last hidden states where a token is predicted, shape (N, H)."""
        device = self.allowed.device
        decoder = self.family.decoder(self.model)
        embeddings = decoder.embed_tokens(batch.token_ids.to(device))
        audio = self._audio(batch.prompts).to(embeddings.dtype)
        hidden = decoder(
            inputs_embeds=embeddings.masked_scatter(batch.audio_mask.to(device)[..., None], audio),
            position_ids=self.family.position_ids(batch.position_ids.to(device)),
            # Given by kind, so that transformers makes no mask of its own; the layout says who sees whom.
            attention_mask={"full_attention": None},
            **RowLayout(batch.spans, device).arguments(),
            use_cache=False,
        ).last_hidden_state
        return hidden[0, batch.predictors.to(device)]  # type: ignore[no-any-return]

    def _audio(self, prompts: Sequence[EncodedPrompt]) -> torch.Tensor:
        """Embeddings of the prompts' clips, one behind the other, shape (ΣA, H). Rows of one prompt share its clip."""
        unique = {id(prompt): prompt for prompt in prompts}
        clips = list(unique.values())
        encoded = self._encode(clips) if self.memory is None else self.memory.get(clips, self._encode)
        by_prompt = dict(zip(unique, encoded, strict=True))
        return self.family.project(self.model, torch.cat([by_prompt[id(p)].to(self.allowed.device) for p in prompts]))

    def _encode(self, prompts: Sequence[EncodedPrompt]) -> list[torch.Tensor]:
        return self.family.encode(self.model, [p.mel for p in prompts], [p.valid_frames for p in prompts])
