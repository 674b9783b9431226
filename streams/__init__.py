"""The running system: behaviour partitioning, ingest, replay and the command line."""
