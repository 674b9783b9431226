"""User interest learning: prompts, the cascade of attempts, and the texts of whole stores."""
