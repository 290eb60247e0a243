"""F4: measured and modelled engines known by name, as data."""
