"""`python -m airwaylib`: the command `airwaylib`."""

from airwaylib.cli import main

main()
