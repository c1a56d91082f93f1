"""How long a worker may take, in seconds. The pool adds `GRACE` so that a worker's own report comes first."""

START = 900.0
"""From the request for an actor to its first token, the load of the model included."""
GENERATE = 1800.0
"""One batch, the wait for an update included."""
UPDATE = 900.0
"""One update, the wait for running batches included."""
FETCH = 300.0
"""The bytes of one bucket."""
HEALTH = 60.0
"""One token."""
STOP = 30.0
"""The end of an engine."""
GRACE = 30.0
