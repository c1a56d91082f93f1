"""The form of whole numbers in paths, queries and commands. Free of pydantic, for `earshot --help`."""

import re

DIGITS = re.compile(r"-?[0-9]{1,18}", re.ASCII)
