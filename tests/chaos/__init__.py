"""Chaos: one sending process, two server processes, and bad luck by seed (issue 8, done when 3).

    python -m tests.chaos --seconds 600 --seed 7

`world.World` starts the two servers (`server`) and the writer of the torture (`tests.crash.writer`), kills either
kind, and gives the servers orders: drop, close, hold the acks back, refuse by role or status, go wrong by script.
A server notes every row that it commits in a journal of its own (`journal`) before it acknowledges it, so that what
it had is known after its SIGKILL too.  `tests.crash.judge.Judge` compares what the writer was promised with what
the journals say: every row whose flush returned landed, unaltered; first arrivals of a table are in order across
both servers; nothing landed that was never handed over.
"""
