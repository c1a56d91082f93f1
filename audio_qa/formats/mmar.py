"""MMAR (arXiv 2505.13032): reasoning about sound, music, speech and their mixtures, 1000 items."""

from audio_qa.formats.item import Draft, Item


class Mmar:
    """Items with `modality`, one of 7; `category` is one of 4 layers. A few items have a blank choice."""

    name = "mmar"
    keys = frozenset({"id", "audio_path", "question", "choices", "modality"})
    answer_key = "answer"
    missing_audio_refused = True

    def parse(self, item: Item) -> Draft:
        choices = item.choices("choices", blank=True)
        return Draft(
            id=item.identifier("id"),
            audio=item.clip("audio_path"),
            text=item.text("question"),
            choices=choices,
            answer=item.answer("answer", choices),
            task=item.label("modality"),
            category=item.label("category"),
            sub_category=item.label("sub-category"),
        )

    def version(self, _: str) -> str:
        return ""
