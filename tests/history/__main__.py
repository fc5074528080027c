"""`python -m tests.history > docs/historical-bugs.md`; `--missing` lists what no mutant brings back instead."""

import sys

from tests.history.page import problems, render

if sys.argv[1:] == ["--missing"]:
    print("\n".join(problems()))
else:
    print(render(), end="")
