"""F4: facts become metrics and log lines."""
