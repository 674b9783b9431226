"""Reading updates from Kafka, and where a subscriber starts."""
