"""`python -m streams`: the command, where it is not on the path."""

from streams.cli import main

main()
