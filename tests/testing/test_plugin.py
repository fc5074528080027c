"""The pytest plugin, and the examples of docs/testing.md run as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from spoolq.cli.main import cli
from spoolq.cli.serve import serve
from spoolq.cli.sql import sql
from spoolq.server import ServerOptions
from spoolq.testing import Script, from_json

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_spoolq", "-p", "no:cacheprovider", "-q", "test_it.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_there_are_three_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_of_the_page(tmp_path: Path, code: str) -> None:
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("field", [field.name for field in fields(ServerOptions)])
def test_the_page_names_each_option(field: str) -> None:
    assert f"`{field}`" in PAGE


def test_the_script_of_the_page_is_one() -> None:
    (text,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    scripts = from_json(text)
    assert scripts[0].refuse is not None
    assert scripts[-1] == Script()


@pytest.mark.parametrize("line", re.findall(r"^spoolq .*$", PAGE, re.MULTILINE))
def test_the_commands_of_the_page_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None
    command.make_context(words[1], words[2:])


@pytest.mark.parametrize("option", re.findall(r"`(--[a-z-]+)", PAGE))
def test_the_options_of_the_page_are_there(option: str) -> None:
    assert any(option in parameter.opts for parameter in (*serve.params, *sql.params))


def test_the_plugin_imports_nothing_of_the_package() -> None:
    code = "import pytest, pytest_spoolq, sys; print([name for name in sys.modules if name.startswith('spoolq')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_servers_are_stopped_after_the_test(tmp_path: Path) -> None:
    code = """
import threading
servers = []

def test_one(make_qwp_server, qwp_server):
    servers.extend([qwp_server, make_qwp_server(latched=False)])
    assert servers[1].options.latched is False
    assert threading.active_count() == 3

def test_two():
    assert threading.active_count() == 1
    assert len({server.port for server in servers}) == 2
"""
    done = run(tmp_path, code)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_public_names() -> None:
    import spoolq.testing

    assert all(hasattr(spoolq.testing, name) for name in spoolq.testing.__all__)
