"""Ways to choose a worker, one small pure module each; `named` finds them by name. Prose: `docs/routing.md`."""
