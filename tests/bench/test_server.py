"""bench/server.py runs, on a few rows."""

from __future__ import annotations

import json

import pytest

from bench import server


def test_it_measures_every_shape_with_every_store(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "ROWS", 2_000)
    monkeypatch.setattr(server, "TURNS", 1)
    server.main()
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert len(figures) == 3
    names = ("memory_store", "sql_store", "acknowledging_only", "server_alone")
    assert all(figure[name] > 0 for figure in figures for name in names)
