"""Foundation part of AIR-Bench (arXiv 2402.07729): single choice among two to four options, `Foundation_meta.json`."""

from audio_qa.formats.item import Draft, Item, ItemError

_OPTIONS = ("choice_a", "choice_b", "choice_c", "choice_d")


class AirBench:
    """Items with `choice_a` to `choice_d`, of which the last two may be missing, null or blank."""

    name = "air_bench"
    keys = frozenset({"path", "question", "choice_a", "choice_b", "task_name", "dataset_name"})
    answer_key = "answer_gt"
    missing_audio_refused = True

    def parse(self, item: Item) -> Draft:
        choices = tuple(item.text(key) for key in _OPTIONS[:2])
        if item.lacks("choice_c") and not item.lacks("choice_d"):
            raise ItemError("has a 'choice_d' and no 'choice_c', and letters count the choices; fill in both in order")
        choices += tuple(item.text(key) for key in _OPTIONS[2:] if not item.lacks(key))
        task, dataset = item.text("task_name"), item.text("dataset_name")
        return Draft(
            id=f"{task}_{dataset}/{item.text('path')}" if item.lacks("uniq_id") else item.identifier("uniq_id"),
            audio=item.clips["path"] if "path" in item.clips else _audio(item.text("path"), task, dataset),
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
