"""Adaptation: continual pre-training of a causal language model on a store's own items and behaviours (CPRM)."""
