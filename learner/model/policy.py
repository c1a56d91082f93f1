"""The policy: log-probabilities of the completions' tokens under the distribution that they were sampled from."""

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from learner.families.audio_tower import divide_into_passes
from learner.families.family import Family
from learner.model.attention import RowLayout
from learner.model.audio_cache import AudioCache
from learner.model.head import chunk_count, score_tokens
from learner.model.packing import Calls, EncodedPrompt, MicroBatch, Row


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
            temperature=self.temperature * self.family.logits_scaling(self.model),
            at_least=batch.calls.head,
        )

    def calls_needed(self, rows: Sequence[Row]) -> Calls:
        """Return how often a micro-batch of these rows has to call the modules."""
        tokens = sum(len(completion) for row in rows for completion in row.completions)
        clips = list({id(row.prompt): row.prompt for row in rows}.values())
        return Calls(tower=self._passes_needed(clips), head=chunk_count(tokens, len(self.allowed)))

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        """Return raw logits, shape (N, V), of every predicting position: no banned tokens, temperature 1."""
        logits: torch.Tensor = self.family.head(self.model)(self._hidden(batch))
        return logits / self.family.logits_scaling(self.model)

    def _hidden(self, batch: MicroBatch) -> torch.Tensor:
        """Return the decoder's last hidden states at the predicting positions, shape (N, H)."""
        device = self.allowed.device
        decoder = self.family.decoder(self.model)
        embeddings = decoder.embed_tokens(batch.token_ids.to(device))
        audio = self._audio(batch.prompts, batch.calls.tower).to(embeddings.dtype)
        hidden = decoder(
            inputs_embeds=embeddings.masked_scatter(batch.audio_mask.to(device)[..., None], audio),
            position_ids=self.family.position_ids(batch.position_ids.to(device)),
            # Given per layer type, so that transformers builds no mask; the layout defines the attention pattern.
            attention_mask={"full_attention": None},
            **RowLayout(batch.spans, device).arguments(),
            use_cache=False,
        ).last_hidden_state
        return hidden[0, batch.predictors.to(device)]  # type: ignore[no-any-return]

    def _audio(self, prompts: Sequence[EncodedPrompt], passes: int) -> torch.Tensor:
        """Return the concatenated embeddings of the prompts' clips, shape (ΣA, H). Rows of a prompt share its clip."""
        unique = {id(prompt): prompt for prompt in prompts}
        clips = list(unique.values())
        if self.audio_cache is None:
            encoded = self._encode(clips, passes)
        else:
            encoded = self.audio_cache.get(clips, self._encode, self._passes_needed)
        by_prompt = dict(zip(unique, encoded, strict=True))
        return self.family.project(self.model, torch.cat([by_prompt[id(p)].to(self.allowed.device) for p in prompts]))

    def _pass_keys(self, prompts: Sequence[EncodedPrompt]) -> list[Hashable]:
        return [self.family.pass_key(p.mel, p.valid_frames) for p in prompts]

    def _passes_needed(self, prompts: Sequence[EncodedPrompt]) -> int:
        return len(set(self._pass_keys(prompts)))

    def _encode(self, prompts: Sequence[EncodedPrompt], at_least: int) -> list[torch.Tensor]:
        """Return the tower's output for each prompt's clip, after `at_least` so many passes of the tower."""
        passes = divide_into_passes(self._pass_keys(prompts), at_least)
        encoded = {i: one for indices in passes for i, one in self._encode_pass(prompts, indices)}
        shortest = min(range(len(prompts)), key=lambda i: prompts[i].valid_frames)
        for _ in range(at_least - len(passes)):
            ((_, extra),) = self._encode_pass(prompts, [shortest])
            # With weight 0 the pass changes no value and no gradient, but has a backward pass.
            encoded[0] = encoded[0] + 0.0 * extra.sum()
        return [encoded[i] for i in range(len(prompts))]

    def _encode_pass(
        self, prompts: Sequence[EncodedPrompt], indices: Sequence[int]
    ) -> Iterable[tuple[int, torch.Tensor]]:
        chosen = [prompts[i] for i in indices]
        encoded = self.family.encode(self.model, [p.mel for p in chosen], [p.valid_frames for p in chosen])
        return zip(indices, encoded, strict=True)
