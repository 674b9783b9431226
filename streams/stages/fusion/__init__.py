"""The fusion stage: interest texts into vectors and user representations."""
