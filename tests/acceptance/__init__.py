"""The acceptance list: which ids there are, which tests carry them, and the page that says so.

`ids` reads the table (ids.toml) and finds the tests; `page` renders docs/acceptance.md from them and from the
registry of mutants; `python -m tests.acceptance > docs/acceptance.md` writes it.
"""
