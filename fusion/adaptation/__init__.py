"""Adaptation to a store's own items and behaviours: a causal language model goes on pre-training (CPRM), a sentence
encoder is tuned to what is liked together."""
