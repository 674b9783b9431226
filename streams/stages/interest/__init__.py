"""The interest stage: closed partitions into interest texts."""
