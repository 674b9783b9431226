"""Training: loops, pre-training, checkpoints, artifacts, metrics, several processes."""
