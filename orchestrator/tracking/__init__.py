"""A run's metrics in the tools one compares runs with: TensorBoard always, others where asked for."""
