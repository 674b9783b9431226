"""Replaying a log, embedded or as a producer, and going on where it stopped."""
