"""F6: the OpenAI-compatible HTTP surface: validation, text, streaming."""
