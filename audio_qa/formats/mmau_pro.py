"""MMAU-Pro (arXiv 2508.13992): its multiple-choice items about one clip.

Items that are judged in other ways (open answers, instruction following) and items about several clips are left out and
counted.
"""

from audio_qa.formats.item import Draft, Item, ItemError
from audio_qa.formats.question_set import ProblemKind

_JUDGED_OTHERWISE = ("open", "instruction following")
"""Categories that the benchmark judges by a model or by the format of the answer."""


class MmauPro:
    """Items with `length_type` and skills; `audio_path` is a list."""

    name = "mmau_pro"
    keys = frozenset({"id", "audio_path", "question", "length_type"})
    answer_key = "answer"
    missing_audio_refused = True

    def parse(self, item: Item) -> Draft:
        options = item.sequence("choices")
        if item.record.get("category") in _JUDGED_OTHERWISE:
            raise ItemError(
                f"of category {item.record['category']!r} is not multiple choice; it is left out",
                ProblemKind.NOT_SINGLE_CHOICE,
            )
        if item.lacks("choices") or (options is not None and len(options) < 2):
            raise ItemError("has no choices to choose among; it is left out", ProblemKind.NOT_SINGLE_CHOICE)
        paths = item.sequence("audio_path")
        if paths is not None and len(paths) != 1:
            raise ItemError(f"is about {len(paths)} clips, not one; it is left out", ProblemKind.NOT_SINGLE_CHOICE)
        choices = item.choices("choices", blank=True)
        return Draft(
            id=item.identifier("id"),
            audio=item.clip("audio_path"),
            text=item.text("question"),
            choices=choices,
            answer=item.answer("answer", choices),
            task=item.label("category"),
            category=item.label("sub-cat"),
            sub_category=item.label("reasoning_skills") or item.label("perceptual_skills"),
        )

    def version(self, _: str) -> str:
        return ""
