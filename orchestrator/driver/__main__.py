"""A job's driver under the service: `python -m orchestrator.driver RUN_DIR SUBMISSION_ID`."""

import os

from orchestrator.cluster.core_share import lower_session_priority

if __name__ == "__main__":
    # Before the imports, which take a second of CPU time: the service goes first.
    lower_session_priority()
    # Before torch is loaded, here or in a process started from here: its threads must not spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from orchestrator.driver.main import start

    start()
