"""The OpenAI surface as values: bodies in, core requests and JSON out. No sockets, no tasks."""
