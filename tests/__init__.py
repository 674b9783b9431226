"""The tests; what they stand on is in tests/support."""
