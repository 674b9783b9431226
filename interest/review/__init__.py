"""Review of texts that were written and kept: how much each says of its own user, and whether that is so."""
