"""F2: what of the KV cache moves between memories, and when: decided here, carried elsewhere."""
