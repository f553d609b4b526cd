"""Refuses to run on a Ray that strangers could reach: whoever reaches its ports can run code on every node.

`python -m pipeline.run.guard [DASHBOARD HOST]` before `ray start` says whether the node may be started so.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.errors import UserError

log = logging.getLogger("sightline")

REMEDY = "set RAY_AUTH_MODE=token and give every node the same token (infra/operations.md)"


def reach(host: str) -> str:
    """Return who can reach an address: "here", "private" networks, or "public". Names count as public."""
    if host == "localhost":
        return "here"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return "public"
    if address.is_loopback:
        return "here"
    # 0.0.0.0 is every interface of the machine, whatever networks those are on.
    return "private" if address.is_private and not address.is_unspecified else "public"


def has_token(environment: Mapping[str, str]) -> bool:
    """Return whether Ray would authenticate by a token here, and finds one."""
    if environment.get("RAY_AUTH_MODE") != "token":
        return False
    path = environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return bool(environment.get("RAY_AUTH_TOKEN")) or Path(path).is_file()


def check_start(host: str, environment: Mapping[str, str]) -> None:
    """Raise a UserError unless a node may be started: a token always, and no dashboard for the public."""
    if not has_token(environment):
        # Ray's control ports listen on all interfaces, wherever its dashboard does.
        raise UserError("ray start", "is refused: no token protects this node", REMEDY)
    if reach(host) == "public":
        raise UserError(
            f"--dashboard-host {host}",
            "is refused: the dashboard would be public",
            "use 127.0.0.1 and reach it by ssh -L, or an address of a private network",
        )


def check_cluster(dashboard: str, environment: Mapping[str, str]) -> None:
    """Raise a UserError for a cluster with a public dashboard and no token; warn where a private network shares it."""
    host = dashboard.rsplit(":", 1)[0]
    who = reach(host) if host else "here"
    if who == "here" or environment.get("RAY_AUTH_MODE") == "token":
        return
    if who == "public":
        raise UserError(f"the Ray cluster at {host}", "is public and wants no token", REMEDY)
    log.warning("the Ray cluster at %s wants no token: whoever reaches it can run code there; %s", host, REMEDY)


if __name__ == "__main__":
    try:
        check_start(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1", os.environ)
    except UserError as error:
        sys.exit(f"error: {error}")
