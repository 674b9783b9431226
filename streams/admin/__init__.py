"""What an operator does to topics and offsets: lag, dead letters, acceptance, forgetting."""
