"""The parts of the job file, a file for each subject; `orchestrator.spec` puts them together."""
