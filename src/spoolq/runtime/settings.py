"""What the configuration means for the rooms below: endpoints, the connect, the delivery machine.

One place for a sender and its drainers, so that they connect and deliver alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from spoolq import limits, link
from spoolq.config import SenderConfig
from spoolq.config_keys import Secret, TokenProvider
from spoolq.delivery import DeliveryOptions
from spoolq.errors import ConfigError
from spoolq.link import ConnectOptions, Endpoint

_LOG = logging.getLogger("spoolq.link")
TOKEN_THREAD: Final = "spoolq-token"


def names(config: SenderConfig) -> tuple[str, ...]:
    """The endpoints for texts, in order of preference."""
    return tuple(str(address) for address in config.endpoints)


def endpoints(config: SenderConfig) -> list[Endpoint]:
    """The endpoints, in the same order."""
    return [Endpoint(address.host, address.port) for address in config.endpoints]


def tls_options(config: SenderConfig) -> link.TlsOptions | None:
    """None for ``ws``.  Roots that cannot be had are a ConfigError; no check of certificates is one WARN a sender."""
    if not config.tls:
        return None
    roots = link.Roots(config.tls_roots, _reveal(config.tls_roots_password), config.tls_ca)
    if config.tls_verify:
        try:
            link.check(roots)
        except link.RootsFailure as error:
            raise ConfigError(str(error), key=error.key) from None
    else:
        _LOG.warning("tls_verify=unsafe_off: the server's certificate is not checked; anyone between can read along")
    return link.TlsOptions(config.tls_verify, roots)


def tokens(config: SenderConfig) -> link.Tokens | None:
    """What asks the user's callable, one for a sender and its drainers; None without one."""
    return link.Tokens(config.token, TOKEN_THREAD) if isinstance(config.token, TokenProvider) else None


def connect_options(
    config: SenderConfig, tls: link.TlsOptions | None, tokens: link.Tokens | None, default_connect_millis: int
) -> ConnectOptions:
    """Credentials, TLS and time limits of a connect; the TCP one when ``connect_timeout`` is not set."""
    header = None
    if config.username is not None or config.token is not None:
        # Now, with what hides them: an import opens files, and when that is called there may be no descriptor.
        from spoolq.link.credentials import authorization

        header = authorization(config.username, _reveal(config.password), _reveal(config.token))
    return ConnectOptions(
        authorization=header,
        tokens=tokens,
        connect_millis=config.connect_timeout_millis or default_connect_millis,
        upgrade_millis=config.auth_timeout_millis,
        tls=tls,
        durable_ack=config.request_durable_ack,
    )


def delivery_options(config: SenderConfig, policies: Mapping[str, str], *, asks: bool) -> DeliveryOptions:
    """Settings of the delivery machine; ``asks``: it asks the user's resolver about refusals."""
    return DeliveryOptions(
        endpoints=names(config),
        backoff_initial_millis=config.reconnect_initial_backoff_millis,
        backoff_max_millis=config.reconnect_max_backoff_millis,
        max_frame_rejections=config.max_frame_rejections,
        poison_window_millis=config.poison_min_escalation_window_millis,
        policies=policies,
        cap_gap_window_millis=config.cap_gap_window_millis,
        outage_budget_millis=config.outage_budget_millis,
        renewable_token=isinstance(config.token, TokenProvider),
        can_drop=config.sf_dir is not None,
        stored=config.sf_dir is not None,
        decide_millis=limits.POLICY_ANSWER_MILLIS if asks else None,
        durable_ack=config.request_durable_ack,
        durable_keepalive_millis=config.durable_ack_keepalive_interval_millis,
        half_open_millis=config.half_open_timeout_millis,
    )


def _reveal(secret: Secret | TokenProvider | None) -> str | None:
    return secret.reveal() if isinstance(secret, Secret) else None
