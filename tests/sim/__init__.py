"""The simulator: the real I/O loop and delivery machine in a world that a seed decides, on a virtual clock.

`python -m tests.sim --seeds 1000` (`make sim SEEDS=...`) runs seeds 1, 2, ...; `--seed 17 --verbose` is one
of them again, with a trace.  The same seed is the same run, whatever runs beside it.

| module       | holds                                                                                 |
|--------------|---------------------------------------------------------------------------------------|
| scheduler    | virtual time, what happens when; the `Clock` and the poller the loop gets             |
| scenario     | what a seed decides: endpoints, settings, which faults there are in this world        |
| network      | one connection: byte pipes with latency, partial writes, full buffers, FIN, RST       |
| servers      | what a server does on one connection, and the strict reading of what it gets          |
| producer     | publishes frames with delta dictionaries, in steps that the loop's steps fall between |
| left         | what another client left at the head of the log: transactions of several frames       |
| judge        | what must hold; it reads only what was published, sent, answered and settled          |
| dictionaries | the symbols of each life of the dictionary, and the strict reading of a message       |
| names        | lookups of names, in the place of the resolver's thread                               |
| view         | what the judge knows of one connection and of one question                            |
| pacing       | when a connect is allowed                                                             |
| world        | puts one run together                                                                 |
| coverage     | what was met, by class: for the report                                                |

What is real: `IoLoop`, `Delivery`, `link.Connection` (framing, masking, partial sends), `link.Resolver`,
`MemoryStore`, the symbol table and catch-up.  What is not: sockets and the connect (the loop's ``connect``), time (its
`Clock`), the threads: a producer's step may come in whenever the loop reads the log, waits or connects.

A run: faults of a few kinds (each world has its own few) until ``heal_millis``; from then on every
server is good and what is left of the bad connections is reset.  It ends when everything published is
acknowledged, or by a terminal error that the judge saw the cause of.  In a part of the seeds the sender
is stopped in the middle and another one goes on with the same log.

In a part of the worlds
- frames are settled by durable acks, which the servers give only when asked;
- a silent connection has to be noticed, and a server that is silent because it works has to get its time;
- names resolve slowly, late or never, by the real `link.Resolver`;
- the ids of symbols begin anew when everything is settled;
- the watermark that a killed sender leaves is an older one;
- a refused frame may become a dead letter; the store of these is a set of numbers, and fails sometimes;
- a resolver has its say in a refusal: at its time, at the last moment, behind another question, or never;
- another client left transactions of several frames.  Their rows are gone when a connection ends in the middle,
  or with a refusal; servers differ in when they say OK to such frames.

Not here: the slot on disk, drainers.

The judge checks after every step; its findings are `Wrong`.  On each connection: frames whole and in
order from the first unsettled one, every symbol known, none above the cap that was told; settled is
exactly what OKs cover of what was handed over; what ends a connection ends it at once, with the strike,
the pause and the verdict of behaviour.md 5 and 6, and nothing else does.  Over the run: connects are paid
for by progress or a pause, no event is answered by many actions, time passes, nobody sleeps while there
is something to do, and everything published is committed by some server.
"""
