"""Settings: their schema, where each value comes from, and the rules they keep."""
