"""Console: what people see of a running server in a terminal (`jedlik top`, `explain`, `plan --advise`, `chat`)."""
