"""Audio for TRL's trainer. TRL 1.16 supports images only: its forwards get no audio features.

Invariant: every row of every forward, of policy and reference, gets the clip of its prompt's question; a row with an
unknown prompt is an error.

A hook adds the processor's `input_features` and `feature_attention_mask` to the forward's arguments: one set per row,
padded to the model's 30 s, as TRL passes images. No code of TRL or transformers is replaced.
"""

from typing import Any

import soundfile
import torch

Prompt = tuple[int, ...]


class Clips:
    """The features of each question's clip, and counts of their use."""

    def __init__(self, processor: Any, questions: list[dict[str, Any]], completion_tokens: int) -> None:
        """Read the clips of `questions`; every completion has `completion_tokens` tokens."""
        self._completion_tokens = completion_tokens
        self._features: dict[tuple[Prompt, bool], torch.Tensor] = {}
        self._masks: dict[Prompt, torch.Tensor] = {}
        self.silence = False
        """True if the next forwards get silence of the clips' length instead."""
        for question in questions:
            prompt = tuple(question["prompt_token_ids"])
            sound, rate = soundfile.read(question["clip"], dtype="float32")
            for silence, samples in ((False, sound), (True, 0 * sound)):
                read = processor(text=[question["prompt"]], audio=[samples], sampling_rate=rate, return_tensors="pt")
                if tuple(read["input_ids"][0].tolist()) != prompt:
                    raise ValueError(f"{question['clip']}: the processor's prompt differs from the learner's")
                self._features[prompt, silence] = read["input_features"][0]
            self._masks[prompt] = read["feature_attention_mask"][0]
        self.reset()

    def reset(self) -> None:
        """Reset the counts to 0."""
        self.encoded = {"policy": 0, "reference": 0}
        """Number of clips encoded by each model's audio tower."""
        self.embeddings = {"policy": 0, "reference": 0}
        """Number of audio embeddings that replaced audio tokens in each model's input."""

    def attach_to(self, model: Any, name: str) -> None:
        """Add the clips of its rows to every forward of `model`, and count them under `name`."""

        def add_audio(_: Any, positional: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
            prompts = [tuple(ids[valid].tolist()[: -self._completion_tokens]) for ids, valid in rows]
            features = torch.stack([self._features[prompt, self.silence] for prompt in prompts])
            masks = torch.stack([self._masks[prompt] for prompt in prompts])
            self.embeddings[name] += int((inputs["input_ids"] == model.config.audio_token_id).sum())
            return positional, {**inputs, "input_features": features, "feature_attention_mask": masks}

        def count_clips(_: Any, __: Any, encoded: Any) -> None:
            self.encoded[name] += encoded.last_hidden_state.shape[0]

        def subtract_unfilled_placeholders(_: Any, __: Any, inputs: dict[str, Any]) -> None:
            placeholder = model.get_input_embeddings().weight[model.config.audio_token_id]
            self.embeddings[name] -= int((inputs["inputs_embeds"] == placeholder).all(dim=-1).sum())

        model.register_forward_pre_hook(add_audio, with_kwargs=True)
        model.model.audio_tower.register_forward_hook(count_clips)
        model.model.language_model.register_forward_pre_hook(subtract_unfilled_placeholders, with_kwargs=True)
