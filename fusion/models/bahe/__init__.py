"""BAHE (arXiv 2403.19347): the upper layers of an LLM over a behaviour bank."""
