"""F4: streams between processes, and who is there."""
