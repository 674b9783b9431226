"""The ingest stage: behaviours from Kafka into the store's partitions."""
