"""The match of a user and a candidate: one space for items, fitted first, and what it says as a few numbers."""
