"""What a user did and what it says about them: domain types, prompts, the cascade, the LLM seam and its tables."""
