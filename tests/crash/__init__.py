"""A writing process is killed by SIGKILL, over and over; `story` tells how, `python -m tests.crash` runs it."""
