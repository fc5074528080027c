"""The page docs/configuration.md, made from the table of settings.

    python -m spoolq.config_docs > docs/configuration.md

A test fails when the page is not what this prints, so the page cannot fall behind the parser.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from spoolq.config_keys import IGNORED, KEYS, REFUSED, Key

_HEAD = """\
# Configuration

<!-- Made by `python -m spoolq.config_docs`; change src/spoolq/config_keys.py, not this page. -->

```
ws::addr=localhost:9000,other:9000;auto_flush_rows=500;
```

A connect string is a scheme, `ws::` (plain) or `wss::` (TLS), and settings `key=value;`. A `;` inside a value
is written `;;`; the last `;` may be left out. Keys are lower case. `Sender.from_conf(conf_str, **settings)` takes the
same names as keyword arguments (True and False mean `on` and `off`, for `tls_verify` `on` and `unsafe_off`; a
`timedelta` gives milliseconds), `Sender.from_env()` reads the string from `QDB_CLIENT_CONF`. A setting is given once,
in one of the two places; only `addr` may repeat in the string.

Switches take `on`, `off`, `true`, `false`. Sizes are bytes, or a number with `k`, `m`, `g`, `t` (also `kb` ...),
powers of 1024. Milliseconds and counts go up to 2147483647. What is wrong raises `ConfigError`, which names the
setting, before any connection is tried.

| Key | Default | Takes | Meaning | Source |
|---|---|---|---|---|
"""

_MIDDLE = """
## Read past

These steer queries or a connection pool and may stand in a string that is shared with one; their values are not
looked at.

"""

_REFUSED = """
## Refused, with a hint

| Key | Hint |
|---|---|
"""


def render() -> str:
    """The whole page."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD
    for key in KEYS:
        yield f"| {_names(key)} | {key.shown_default} | {key.accepted} | {key.meaning} | {key.source} |\n"
    yield _MIDDLE
    yield ", ".join(f"`{name}`" for name in sorted(IGNORED)) + ".\n"
    yield _REFUSED
    for name, hint in REFUSED.items():
        yield f"| `{name}` | {hint} |\n"


def _names(key: Key) -> str:
    return ", alias ".join(f"`{name}`" for name in (key.name, *key.aliases))


if __name__ == "__main__":
    sys.stdout.write(render())
