"""From settings to models at work: the LLM, the text encoder, the behaviour bank, the active artifact."""
