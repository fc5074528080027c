"""filesystem.py: which filesystem a slot is on, and what is said about it (ours.md 23)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from spoolq.runtime import filesystem

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /mnt/share rw - nfs4 host:/share rw
31 22 0:27 / /mnt/share/local rw - xfs /dev/sdb rw
32 22 0:28 / /mnt/with\\040blank rw - cifs //host/share rw
33 22 0:29 / /mnt/user rw - fuse.sshfs host: rw
34 22 0:30 / /tmp/fast rw - tmpfs tmpfs rw
35 22 0:31 / /box rw - overlay overlay rw
36 22 0:32 / /over rw - ext4 /dev/a rw
37 22 0:33 / /over rw - tmpfs tmpfs rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> str:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    return str(table)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/spool", "ext4"),
        ("/", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/a/b", "nfs4"),
        ("/mnt/sharebutnot", "ext4"),
        ("/mnt/share/local/x", "xfs"),
        ("/mnt/with blank/x", "cifs"),
        ("/over/x", "tmpfs"),
    ],
)
def test_the_longest_mount_point_counts(mounts: str, path: str, kind: str) -> None:
    assert filesystem.kind_of(path, mounts) == kind


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/var/lib/spool", ""),
        ("/mnt/share/local/x", ""),
        ("/mnt/share/x", "locks and fsync may not hold here"),
        ("/mnt/with blank/x", "locks and fsync may not hold here"),
        ("/mnt/user/x", "locks and fsync may not hold here"),
        ("/tmp/fast/x", "not durable"),
        ("/box/x", "not durable"),
    ],
)
def test_what_is_said(mounts: str, path: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "spoolq.spool"):
        filesystem.warn_about(path, mounts)
    assert (said in caplog.text) if said else not caplog.records


@pytest.mark.parametrize("content", ["", "nonsense\n", "1 2 3 4\n"])
def test_a_table_that_cannot_be_read_says_nothing(tmp_path: Path, content: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(content)
    assert filesystem.kind_of("/x", str(table)) == ""
    assert filesystem.kind_of("/x", str(tmp_path / "missing")) == ""
