"""The learner: DeepSpeed ranks as Ray actors that train, write checkpoints and publish weights."""
