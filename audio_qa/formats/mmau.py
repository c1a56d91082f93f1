"""MMAU (arXiv 2410.19168): sound, music and speech. `mmau-test-mini.json` has 1000 items with their answers.

Two versions of the questions exist, whose scores cannot be compared. Only the hash of the file identifies its version.
"""

from audio_qa.formats.item import Draft, Item

BEFORE = "before v05.15.25"
REVISED = "v05.15.25"
"""Published in May 2025: about a quarter of questions and answers, and some clips, were revised."""

# sha256 of every mmau-test-mini.json in the history of github.com/Sakshi113/MMAU, with the day of its commit.
_KNOWN = {
    "bef649e4bdeb436779a929ccdb9caa3f5144899bd087fc05e23065268ba888cc": (BEFORE, "2024-10-23"),
    "a5006730ccb3fbf1fc72016774413b9b4a596bb00ce8f37796d9d30979b46192": (BEFORE, "2024-10-25"),
    "c9b52eedf92f4729e533dc4f634bbdc118e2c9dd4c78f54420d91b254907daa0": (BEFORE, "2024-10-29"),
    "1b6d31d0b70c2944a064a5de0147435427af0bcd3167eff175daa8bd5321e9d3": (BEFORE, "2024-10-29"),
    "850c2794664d53c1f7e7e2bcf35744b9ab4e60debad2156d67efd6956220affa": (BEFORE, "2024-12-09"),
    "ed2fd6b6c24ebec1a5a496de5d767e7ebfe79556044d8f0d8bd00ad0cf02d623": (BEFORE, "2025-01-28"),
    "e8cc09223b497191781756212cb616315690aaa6ea7ac359db1b65d97d1e2433": (BEFORE, "2025-03-25"),
    "d35ec10bc3097fc605661b0eed00a487da74a6e7d9e23736567312c632347400": (REVISED, "2025-05-15"),
    "9da96f00e43890adfbac3628b7b0dab3a32a6d6ec2d0a800b892ee261d35b818": (REVISED, "2025-05-16"),
    "ea9f3f53085a2dfcf9ea7f5b2fca76a6634cd212af084bbb4cd8bf22c8903537": (REVISED, "2025-05-16"),
    "cafecebbb4e48b9eb83fd88916911a853245379812e08f118984510340b2dc5b": (REVISED, "2025-05-18"),
    "cc59d9e3fad1a675f311f341b53b05079b94e735e5bc8992ac881ebeda2976f5": (REVISED, "2025-05-19"),
    "157f1968a686c9e7ffb3669e13296349af72afe78af19c049e5d459ccb59d402": (REVISED, "2025-05-22"),
    "e0042de8b99492539b0a17997b6c12fff90a6d42a47ad5fd8801c80dcb52b405": (REVISED, "2025-05-24"),
    "0bbabee60dcbd76815948394ac2dd31c41d18ab1215fe6fd6f93e0e510f78d7a": (REVISED, "2025-05-30"),
    "5c63fe8f2de12e848be146e48436567c2022fe84ea0012da560003c30a24b2b7": (REVISED, "2025-06-23"),
    "3940399a013d5f6d528ad4f5d1701cce29cdb5b19ccd4e6ab2800e0665dd6ac9": (REVISED, "2025-06-23"),
    "479bdbcf2f96e6f97bde92d7f5bbfb308e7bf1efdec9cf4029d5ccb61f7aad84": (REVISED, "2025-06-27"),
    "9f18fda99f8dbc2bc5ecd6323fb5063309f54969810b5c6f1caeb3b8d904cf1c": (REVISED, "2025-08-09"),
}


class Mmau:
    """Items with `audio_id`; in a few of them `category` is a list, or choices are duplicates."""

    name = "mmau"
    keys = frozenset({"id", "audio_id", "question", "choices"})
    answer_key = "answer"
    missing_audio_refused = True

    def parse(self, item: Item) -> Draft:
        choices = item.choices("choices", blank=True)
        return Draft(
            id=item.identifier("id"),
            audio=item.clip("audio_id"),
            text=item.text("question"),
            choices=choices,
            answer=item.answer("answer", choices),
            task=item.label("task"),
            category=item.label("category"),
            sub_category=item.label("sub-category"),
            difficulty=item.label("difficulty"),
        )

    def version(self, sha256: str) -> str:
        """Return the version of a file and its date; "unknown" for a file that was changed since."""
        if sha256 not in _KNOWN:
            return "unknown"
        version, day = _KNOWN[sha256]
        return f"{version} ({day})"
