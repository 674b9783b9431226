"""The scoring service: scores, interests and behaviours over HTTP."""
