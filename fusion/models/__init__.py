"""The CTR models and the parts they share."""
