"""Ways to choose a worker: the default, published rules and plug-in files. `named` finds them by name."""
