"""Encode a question's clip and prompt exactly as the rollout workers' engines do, with a cache."""

from collections import OrderedDict

from transformers import ProcessorMixin

from audio_qa.audio import SAMPLE_RATE, AudioError, TooLong, load_audio
from audio_qa.chat import render
from audio_qa.errors import EarshotError
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.families.family import Family
from learner.model.audio_cache import clip_digest
from learner.model.packing import EncodedPrompt


class PromptMismatchError(EarshotError):
    """Learner and rollout worker encode a question differently: training on it would be silently wrong."""


class PromptEncoder:
    """An encoder of questions as token ids and log-mel features, with a cache of the most recent `cache_size`."""

    def __init__(
        self, family: Family, processor: ProcessorMixin, *, too_long: TooLong = "refuse", cache_size: int = 512
    ) -> None:
        self.family, self.processor = family, processor
        self._too_long = too_long
        self._cache_size = cache_size
        self._cache: OrderedDict[tuple[str, str, PromptTemplate], EncodedPrompt] = OrderedDict()

    @property
    def max_seconds(self) -> float:
        """Maximum length of a clip; the feature extractor silently truncates longer ones."""
        return self.family.facts.max_clip_seconds(self.processor.feature_extractor)

    def encode(self, question: Question, template: PromptTemplate) -> EncodedPrompt:
        """Return the tokens and features of one question.

        Raises:
            AudioError: the clip cannot be read, exceeds the maximum length, or is too short to be heard.
        """
        key = (question.key, question.audio, template)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        clip = load_audio(question.audio, max_seconds=self.max_seconds, too_long=self._too_long)
        hop = self.processor.feature_extractor.hop_length
        if problem := self.family.facts.too_short(len(clip.samples), hop):
            raise AudioError(f"{question.audio!r}: {problem}; replace the clip, or leave its question out")
        outputs = self.processor(
            text=[render(self.processor, question, template)],
            audio=[clip.samples],
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
        )
        mel, valid = self.family.features(outputs)
        encoded = EncodedPrompt(tuple(outputs["input_ids"][0].tolist()), mel, valid, clip_digest(mel, valid))
        self._cache[key] = encoded
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return encoded
