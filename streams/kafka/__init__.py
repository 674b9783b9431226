"""Kafka: clients, topics, the values that travel, errors."""
