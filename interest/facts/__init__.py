"""What a partition's behaviours say when they are counted: facts, categories."""
