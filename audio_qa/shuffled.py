"""The shuffled-audio control: each question is asked with another question's clip.

A model that only needs to hear *something* answers as well as with the right clip. Silence does not show that.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from audio_qa.inspection.overlap import sound_classes
from audio_qa.question import Question


def other_clips(questions: Sequence[Question], *, seed: int) -> list[str] | None:
    """For each question the path of the clip it is asked with: another question's, which sounds different.

    The same seed gives the same clips. None where all questions are about one sound, so that there is no other clip.
    Clips are told apart by their samples (`sound_classes`), so their files are read.
    """
    classes = sound_classes({question.audio for question in questions})
    return deranged([question.audio for question in questions], classes, seed=seed)


def deranged(clips: Sequence[str], classes: Mapping[str, int], *, seed: int) -> list[str] | None:
    """The clips in another order, none where one of its class was; None where there is one class only.

    Every clip is used as often as it is there, unless one class has more than half of them: then no such order exists,
    and what its members would get of each other they get of the rest, in turn.

    Args:
        clips: shape (N,).
        classes: of each clip, which clips are the same sound.
    """
    counts = Counter(classes[clip] for clip in clips)
    if len(counts) < 2:
        return None
    order = list(range(len(clips)))
    random.Random(seed).shuffle(order)
    # Members of a class stand together, classes in random order. A step as long as the largest class then leads out of
    # each class, and back into it around the end only if that one has more than half.
    place = {kind: i for i, kind in enumerate(dict.fromkeys(classes[clips[i]] for i in order))}
    order.sort(key=lambda i: place[classes[clips[i]]])
    step = max(counts.values())
    found = list(clips)
    for position, i in enumerate(order):
        found[i] = clips[order[(position + step) % len(order)]]
    ((largest, most),) = counts.most_common(1)
    if 2 * most > len(clips):
        rest = [clips[i] for i in order if classes[clips[i]] != largest]
        left = [i for i in order if classes[clips[i]] == classes[found[i]]]
        for turn, i in enumerate(left):
            found[i] = rest[turn % len(rest)]
    return found
