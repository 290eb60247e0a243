"""F2: what an engine does next: the queue, the step's budget, preemption."""
