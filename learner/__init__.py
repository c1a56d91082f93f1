"""The DeepSpeed ranks as Ray actors: batches, loss, checkpoints, publishing weights; supervised training."""
