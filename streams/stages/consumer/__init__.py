"""A stage's consumer of a Kafka topic: messages, offsets, commits."""
