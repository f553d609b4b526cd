"""What a service is told: which ROOT, who may ask, and how much of anything it takes on."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.search.live import LiveOptions


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """Bounds on what a client can make the service do; beyond them it answers with a 4xx, or 503 for "later".

    body_bytes: of a request. pixels: of an uploaded image. k, rerank, verify, locate: of one search; locate: results in
    which the object is looked for. searches, pictures: in hand at a time, waiting ones included; locating: of the
    searches those that locate, which take seconds. rate: searches per second of one client, over a window of three
    seconds; 0 for any. header_seconds, body_seconds: until a request has arrived. connections: beyond so many that are
    open, requests are sent away.
    """

    body_bytes: int = 20 << 20
    pixels: int = 32_000_000
    k: int = 200
    rerank: int = 10_000
    verify: int = 200
    locate: int = 50
    searches: int = 64
    pictures: int = 512
    locating: int = 8
    rate: int = 20
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    connections: int = 512


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """Where to listen; port 0 takes any free one. certificate, key: PEM files for TLS. names: by which the service may
    be called, beside those of here. proxies: addresses whose X-Forwarded-For is believed.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: str = ""
    key: str = ""
    names: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """A service over ROOT. kinds: index kinds that are opened; None for all of the snapshot.

    token: what clients must send as a bearer; "" asks for none. hosts: names by which the service may be called, None
    for any: a page elsewhere cannot reach a service on this machine by making its own name point here.
    """

    root: str
    kinds: tuple[str, ...] | None = None
    device: str = "auto"
    token: str = field(default="", repr=False)
    hosts: tuple[str, ...] | None = ("127.0.0.1", "localhost", "::1")
    limits: ServeLimits = field(default_factory=ServeLimits)
    live: LiveOptions = field(default_factory=LiveOptions)
