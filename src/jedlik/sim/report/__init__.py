"""The report of a simulation: numbers, a table for the terminal, a page for the browser."""
