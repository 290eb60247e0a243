"""F4: where models come from: aliases, cached model directories, conversion."""
