"""Text becomes vectors: the sentence encoder, causal LLMs, and an LLM split in two."""
