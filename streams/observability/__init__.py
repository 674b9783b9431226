"""What a worker shows of itself: health, metrics, logs."""
