"""The store: engine, tables, counters, outbox, and what is told or removed of its users."""
