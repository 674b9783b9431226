"""The claim check: what a text says of a user, held against the behaviours it is about."""
