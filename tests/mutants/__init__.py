"""Mutants: wrong versions of the code, each with the test that was seen red because of it.

The registry is one TOML file an area beside this file; an entry reads

    [[mutant]]
    ids = ["SEG-06", "INV-10"]          # acceptance ids, or sections of our pages such as "ours-29a"
    file = "src/spoolq/spool/scan.py"
    find = "text that occurs exactly once in the file"
    replace = "the wrong text"
    test = "tests/spool/test_scan.py::test_seg_06_..."    # a node id, with or without its parameters
    # implementation = "plain"          # when the file is a plain twin; compiled files are never mutated
    # what = "a few words for the page, where find and replace do not say it"
    # slow = true                       # takes more than 15 s to be caught: left out of samples, `make mutants` has it

`registry` reads and checks it, `tree` is a copy of the project in which files are changed, `run` runs one test there
and judges what it did, `__main__` is the command: `python -m tests.mutants --help`.
"""
