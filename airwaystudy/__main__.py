"""`python -m airwaystudy`: the command `airwaylib`."""

from airwaystudy.cli import main

main()
