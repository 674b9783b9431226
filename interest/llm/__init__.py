"""The seam to the language model: its protocol, its backends, the cache of answers."""
