"""From the store's log to batches: samples, labels, splits, vocabularies, counts, collators."""
