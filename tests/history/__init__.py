"""The bugs that store-and-forward clients have had, ours and others', and the mutants that bring each one back.

`bugs.toml` names them, with where each is known from; `page` finds the mutants and renders docs/historical-bugs.md;
`python -m tests.history > docs/historical-bugs.md` writes it.  `python -m tests.mutants --history` brings all back.
"""
