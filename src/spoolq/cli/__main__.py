"""`python -m spoolq.cli`."""

from spoolq.cli import main

main()
