"""Scores and user vectors of a trained artifact."""
