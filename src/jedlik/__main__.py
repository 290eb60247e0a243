"""`python -m jedlik` is the `jedlik` command."""

from jedlik.cli.main import main

main()
