"""`python -m tests.acceptance > docs/acceptance.md`; `--missing` lists what has no test or no mutant instead."""

import sys

from tests.acceptance.page import problems, render

if sys.argv[1:] == ["--missing"]:
    print("\n".join(problems()))
else:
    print(render(), end="")
