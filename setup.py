"""Builds the compiled rooms; without a compiler the package installs on its plain twins.

Which extensions exist is read from the tree: every ``*.pyx`` under ``src``.  Each one is
``optional``: a failing compiler leaves the plain twin, and ``spoolq._implementation`` says so once
at import.  ``SPOOLQ_REQUIRE_COMPILED=1`` turns a failed build into an error (used by ``make``).
"""

import os
from pathlib import Path

from setuptools import Extension, setup

required = os.environ.get("SPOOLQ_REQUIRE_COMPILED") == "1"
sources = sorted(Path("src").rglob("*.pyx"))


def extensions() -> list[Extension]:
    """One optional extension a ``.pyx`` file; none when Cython itself is missing."""
    try:
        from Cython.Build import cythonize
    except ImportError:
        if required:
            raise
        return []
    found = [
        Extension(
            ".".join(source.relative_to("src").with_suffix("").parts),
            [str(source)],
            depends=[str(path) for path in sorted(Path("src").rglob("*.h"))],
            include_dirs=["src"],  # headers are named from the package's root: spoolq/spool/marks.h
            extra_compile_args=["-O3", "-fno-strict-aliasing"],
        )
        for source in sources
    ]
    built: list[Extension] = cythonize(
        found,
        language_level=3,
        compiler_directives={"boundscheck": False, "wraparound": False, "freethreading_compatible": False},
    )
    for extension in built:
        extension.optional = not required  # set here: cythonize does not carry it over
    return built


setup(ext_modules=extensions())
