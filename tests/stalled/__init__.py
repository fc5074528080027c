"""What `tests/stalls.py` has each process run that a test starts: `sitecustomize`."""
