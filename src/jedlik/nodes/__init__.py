"""F3: gateway and worker as pure state machines: the unit both worlds run."""
