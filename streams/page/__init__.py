"""The live interest page: a person's view of users, models and the stream, over the service's HTTP API alone."""
