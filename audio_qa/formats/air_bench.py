"""Foundation part of AIR-Bench (arXiv 2402.07729): single choice among two to four options, `Foundation_meta.json`."""

from audio_qa.formats.item import Draft, Item

_OPTIONS = ("choice_a", "choice_b", "choice_c", "choice_d")


class AirBench:
    """Items with `choice_a` to `choice_d`, of which the last two may be missing or null."""

    name = "air_bench"
    keys = frozenset({"path", "question", "choice_a", "choice_b", "answer_gt"})
    missing_audio_refused = True

    def parse(self, item: Item) -> Draft:
        choices = tuple(item.text(key) for key in _OPTIONS[:2])
        choices += tuple(item.text(key) for key in _OPTIONS[2:] if item.record.get(key) is not None)
        task, dataset = item.text("task_name"), item.text("dataset_name")
        return Draft(
            id=item.identifier("uniq_id") if "uniq_id" in item.record else f"{task}_{dataset}/{item.text('path')}",
            audio=_audio(item.text("path"), task, dataset),
            text=item.text("question"),
            choices=choices,
            answer=item.answer("answer_gt", choices),
            task=task,
            category=dataset,
        )

    def version(self, _: str) -> str:
        return ""


def _audio(path: str, task: str, dataset: str) -> str:
    """Return a clip's path, as in the benchmark's script: a folder per task and dataset; flac for grounding."""
    if "/" in path:
        return path
    name = f"{path[:-3]}flac" if task == "Audio_Grounding" else path
    return f"{task}_{dataset}/{name}"
