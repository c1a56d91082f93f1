"""AVQA (Yang et al., 2022), read as in arXiv 2503.11197: the questions about a video are asked about its sound.

"video" becomes "audio" in the question. Many of the videos are no longer available, so items without their clip are
left out and counted; the paper trained on the remaining ones, about 38,000 of 40,425.
"""

from audio_qa.formats.item import Draft, Item


class Avqa:
    """Items with `question_text`, `multi_choice` and the 0-based index of the right one."""

    name = "avqa"
    keys = frozenset({"question_text", "multi_choice"})
    answer_key = "answer"
    missing_audio_refused = False

    def parse(self, item: Item) -> Draft:
        choices = item.choices("multi_choice")
        return Draft(
            id=item.identifier("id"),
            # The published annotations name the video only; the paper's code adds the path of its sound.
            audio=f"{item.text('video_name')}.wav" if item.lacks("audio_path") else item.clip("audio_path"),
            text=item.text("question_text").replace("video", "audio"),
            choices=choices,
            answer=item.answer_at("answer", choices),
            category=item.label("question_type"),
            sub_category=item.label("question_relation"),
        )

    def version(self, _: str) -> str:
        return ""
