"""Keys of a user: a sparse map from what was met (items, categories, makers ...) to a vector of what was made of it."""
