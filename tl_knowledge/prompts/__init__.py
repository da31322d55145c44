"""Facts as text, spans, and prompts as tokens."""
