"""F2: which worker gets a request: the view of workers, the cost, the choice, the admission."""
