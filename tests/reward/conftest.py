"""Good and bad custom reward functions, in a real module that reward processes import."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from audio_qa.question import Question

MODULE = '''
import functools, math, os, signal, sys, time
from os import getpid


def length(question, text, template):
    return len(text) / 10


def process(question, text, template):
    return os.getpid()


def slow(question, text, template):
    time.sleep(0.3)
    return 1.0


def obeys(question, text, template):
    """Does what the completion says."""
    if text == "raise":
        raise KeyError("two\\nlines")
    if text == "raise badly":
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError
        raise Mute
    if text == "interrupt":
        raise KeyboardInterrupt
    if text == "exit":
        sys.exit(0)
    if text == "end":
        os._exit(3)
    if text == "end well":
        os._exit(0)
    if text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "hang":
        while True:
            pass
    if text == "hang deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    values = {"nan": math.nan, "inf": -math.inf, "none": None, "string": "1.0", "true": True}
    values |= {"huge": 10**400, "large": 1.5e308}
    return values.get(text, 0.5)


partial = functools.partial(length)
constant = 3
'''


@pytest.fixture(scope="session")
def rewards_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on the module path, which reward processes inherit, with modules of reward functions."""
    home = tmp_path_factory.mktemp("rewards")
    (home / "house_rewards.py").write_text(MODULE)
    (home / "broken_rewards.py").write_text("raise OSError('no disk')\n")
    (home / "ending_rewards.py").write_text("import os\nos._exit(1)\n")
    (home / "exiting_rewards.py").write_text("import sys\nsys.exit(1)\n")
    sys.path.insert(0, str(home))
    yield home
    sys.path.remove(str(home))


@pytest.fixture
def question() -> Question:
    return Question("d", 0, "q", "/clip.wav", "What is heard?", ("a dog", "a cat"), "a dog")
