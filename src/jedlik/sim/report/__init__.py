"""What a simulation showed: numbers, a table for the terminal, a page for the browser."""
