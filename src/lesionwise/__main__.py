"""`python -m lesionwise`."""

from lesionwise.cli.main import main

main()
