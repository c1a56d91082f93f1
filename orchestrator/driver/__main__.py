"""A job's driver under the service: `python -m orchestrator.driver RUN_DIR SUBMISSION_ID`."""

import os

from orchestrator.cluster.core_share import lower_priority
from orchestrator.driver.signals import interrupted_by_signals
from orchestrator.run.exit_codes import CANCELLED

if __name__ == "__main__":
    # Before the imports, which take a second of CPU time: the service goes first.
    lower_priority()
    # Before torch is loaded, here or in a process started from here: its threads must not spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    try:
        # Before them, too: a job that is stopped meanwhile was cancelled.
        with interrupted_by_signals():
            from orchestrator.driver.main import start

            code = start()
    except KeyboardInterrupt as error:
        raise SystemExit(CANCELLED) from error
    raise SystemExit(code)
