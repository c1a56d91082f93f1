"""Questions of a job: splits, sources, curriculum, solve rates and the ledger."""
