"""F1: what KV blocks are called, who holds them, and which physical slot they sit in. Accounting, no memory."""
