"""F7: parse once, wire by hand, start."""
