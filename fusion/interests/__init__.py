"""User interest fusion in the store: interest texts to vectors, vectors to user representations."""
