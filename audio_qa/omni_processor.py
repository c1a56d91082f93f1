"""The processors of Qwen2.5-Omni and Qwen3-Omni without video, which need no torchvision.

The classes of transformers require a video processor, which needs torchvision.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from transformers import ProcessorMixin, Qwen2_5OmniProcessor, Qwen3OmniMoeProcessor


class _WithoutVideo(ProcessorMixin):  # type: ignore[misc]  # transformers is untyped here
    """A processor of text, sound and images; the class of transformers can load what it saves."""

    def __init__(
        self, image_processor: Any, feature_extractor: Any, tokenizer: Any, chat_template: str | None = None
    ) -> None:
        # Skip the constructor of the class of transformers, which requires the video processor.
        ProcessorMixin.__init__(self, image_processor, feature_extractor, tokenizer, chat_template=chat_template)
        for name in ("image", "audio", "video", "vision_bos", "vision_eos", "audio_bos", "audio_eos"):
            setattr(self, f"{name}_token", getattr(tokenizer, f"{name}_token"))
        self.video_settings: Mapping[str, Any] = {
            **{k: v for k, v in image_processor.to_dict().items() if not k.endswith("_processor_type")},
            "video_processor_type": "Qwen2VLVideoProcessor",
        }
        """Settings of the video processor of transformers."""
        # The class of transformers reads these even without video.
        self.video_processor = SimpleNamespace(merge_size=image_processor.merge_size, model_input_names=[])

    @classmethod
    def from_args_and_dict(cls, args: Sequence[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Self:
        made = super().from_args_and_dict(args, processor_dict, **kwargs)
        processor: Self = made[0] if isinstance(made, tuple) else made
        processor.video_settings = processor_dict.get("video_processor", processor.video_settings)
        return made  # type: ignore[no-any-return]

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "video_processor": dict(self.video_settings)}


class OmniProcessor(_WithoutVideo, Qwen2_5OmniProcessor):  # type: ignore[misc]
    """Qwen2.5-Omni's processor."""


class Omni3Processor(_WithoutVideo, Qwen3OmniMoeProcessor):  # type: ignore[misc]
    """Qwen3-Omni's processor, which also fills up a clip's last mel frame with silence, as vLLM does.

    The feature extractor pads no clip here, and drops an incomplete frame.
    """

    def __call__(self, *args: Any, audio: Any = None, **kwargs: Any) -> Any:
        hop = self.feature_extractor.hop_length
        if isinstance(audio, Sequence):
            audio = [np.pad(clip, (0, -len(clip) % hop)) if isinstance(clip, np.ndarray) else clip for clip in audio]
        return super().__call__(*args, audio=audio, **kwargs)


# The names that are saved in checkpoints, which others load with the classes of transformers.
OmniProcessor.__name__ = Qwen2_5OmniProcessor.__name__
Omni3Processor.__name__ = Qwen3OmniMoeProcessor.__name__
