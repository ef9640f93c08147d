"""`python -m drsn_edge`."""

from drsn_edge.cli import main

main()
