"""The shuffled-audio control: each question is asked with another question's clip.

A model that only needs the presence of *some* sound answers as well as with the right clip; silence cannot show that.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from audio_qa.inspection.overlap import sound_classes
from audio_qa.question import Question


def other_clips(questions: Sequence[Question], *, seed: int) -> list[str] | None:
    """Return, for each question, the path of another question's clip with different sound.

    The same seed gives the same clips. None if all questions are about one sound, so that there is no other clip.
    Clips are compared by their samples (`sound_classes`), so their files are read.
    """
    classes = sound_classes({question.audio for question in questions})
    return deranged([question.audio for question in questions], classes, seed=seed)


def deranged(clips: Sequence[str], classes: Mapping[str, int], *, seed: int) -> list[str] | None:
    """Return the clips in another order, none in a position of its own class; None if there is one class only.

    Every clip is used as often as it occurs, unless one class has more than half of the clips: then no such order
    exists, and members of that class cycle through the clips of the other classes.

    Args:
        clips: shape (N,).
        classes: the class of each clip; clips with the same sound share it.
    """
    counts = Counter(classes[clip] for clip in clips)
    if len(counts) < 2:
        return None
    order = list(range(len(clips)))
    random.Random(seed).shuffle(order)
    # Sorted by class, classes in random order. A step as long as the largest class then leads out of each class, and
    # wraps around into it only if the largest class has more than half of the clips.
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
