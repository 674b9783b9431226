"""User behaviour streaming partition: the fold, its policy, and the transaction that ingests."""
