"""A run's metrics in tools that compare runs: always TensorBoard, others as the job file says."""
