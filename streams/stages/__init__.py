"""The stages of the stream agent: ingest, interest, fusion."""
