"""The store: engine, tables, counters, outbox, and what is shown or deleted of its users."""
