"""Qwen2.5-Omni's processor without video, which needs no torchvision.

The class of transformers requires a video processor, which needs torchvision.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self

from transformers import ProcessorMixin, Qwen2_5OmniProcessor


class OmniProcessor(Qwen2_5OmniProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Like the class of transformers for text, sound and images, which can load what this class saves."""

    def __init__(
        self, image_processor: Any, feature_extractor: Any, tokenizer: Any, chat_template: str | None = None
    ) -> None:
        # Skip the constructor of the base class, which requires the video processor.
        ProcessorMixin.__init__(self, image_processor, feature_extractor, tokenizer, chat_template=chat_template)
        for name in ("image", "audio", "video", "vision_bos", "vision_eos", "audio_bos", "audio_eos"):
            setattr(self, f"{name}_token", getattr(tokenizer, f"{name}_token"))
        self.video_settings: Mapping[str, Any] = {
            **{k: v for k, v in image_processor.to_dict().items() if not k.endswith("_processor_type")},
            "video_processor_type": "Qwen2VLVideoProcessor",
        }
        """Settings of the video processor of transformers."""
        # The base class reads these even without video.
        self.video_processor = SimpleNamespace(merge_size=image_processor.merge_size, model_input_names=[])

    @classmethod
    def from_args_and_dict(cls, args: Sequence[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Self:
        made = super().from_args_and_dict(args, processor_dict, **kwargs)
        processor: Self = made[0] if isinstance(made, tuple) else made
        processor.video_settings = processor_dict.get("video_processor", processor.video_settings)
        return made  # type: ignore[no-any-return]

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "video_processor": dict(self.video_settings)}


# The name that is saved in checkpoints, which others load with the class of transformers.
OmniProcessor.__name__ = Qwen2_5OmniProcessor.__name__
