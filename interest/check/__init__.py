"""The claim check: every claim of a text is checked against the behaviours that the text is about."""
