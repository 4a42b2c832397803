"""What an operator may choose beyond the machines: groups of settings, each with a sound default.

Theory of operation. Each group is a frozen struct. A field's annotation is the one place that says what it may be:
the same constraint holds where a Python config file constructs the group and where a TOML file's table of the same
name is decoded. An unknown name is an error in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from spalloc_server.errors import ConfigurationValueError

__all__ = [
    "MAX_NUMBER",
    "MAX_PORT",
    "MAX_SECONDS",
    "Access",
    "Count",
    "Hardware",
    "Health",
    "Interval",
    "Limits",
    "Options",
    "Port",
    "Positive",
    "Scheduling",
    "Seconds",
    "Web",
    "check_fields",
    "in_words",
]

MAX_NUMBER = 2**53
"""The largest whole number that is taken from outside, positive or negative: sizes, counts, priorities, coordinates,
numbers of jobs. Up to it every reader of JSON takes whole numbers exactly."""

MAX_SECONDS = 1e10
"""The longest time that is taken from outside, some 300 years: `keepalive`, `max_runtime`, settings, times in a
trace."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Interval: TypeAlias = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]
MAX_PORT: Final = 65535
Port: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_PORT)]


def check_fields(settings: Any, *names: str) -> None:
    """Check fields of an object against their annotations, constraints included.

    Raises:
        ConfigurationValueError: a field is not what its annotation says; the text names it.
    """
    kinds = get_type_hints(type(settings), include_extras=True)
    for name in names:
        value = getattr(settings, name)
        try:
            msgspec.convert(value, kinds[name])
        except msgspec.ValidationError as error:
            words = _PYTHON_WORDS | {"object": getattr(kinds[name], "__name__", "dict")}
            wanted = in_words(str(error), words)
            if get_origin(kinds[name]) is Literal:
                wanted += f"; it is one of {', '.join(map(repr, get_args(kinds[name])))}"
            raise ConfigurationValueError(f"{type(settings).__name__}: {name}={value!r}: {wanted}") from error


_PYTHON_WORDS = {"object": "dict", "array": "tuple", "null": "None"}


def in_words(message: str, words: Mapping[str, str]) -> str:
    """A message of msgspec's, such as "Expected `object`, got `null`", with other words for the kinds of values."""
    return re.sub(r"`[^`]*`", lambda part: re.sub(r"\w+", lambda word: words.get(word[0], word[0]), part[0]), message)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of settings: fields only by name, checked when it is constructed.

    Raises:
        ConfigurationValueError: a field is not what its annotation says; the text names it.
    """

    def __post_init__(self) -> None:
        check_fields(self, *self.__struct_fields__)


class Scheduling(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who goes next (`[scheduling]`)."""

    policy: Literal["backfill", "fifo"] = "backfill"
    """`"backfill"`: jobs that delay nobody may overtake. `"fifo"`: strictly first come, first served."""
    half_life: Interval = 604800.0
    """Seconds after which an owner's past use counts half."""
    min_fill: Annotated[float, Meta(ge=0, le=1)] = 2 / 3
    """Least share of its rectangle of triads that a job for n boards fills, two thirds by default; 0 for any, 1 for
    only the tightest rectangles. A looser one is given where dead boards, or the request itself, leave nothing
    tighter."""
    max_priority: Count = 0
    """Highest priority that a job may ask for."""


class Health(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done about boards that fail (`[health]`)."""

    quarantine_after: Positive = 1
    """Failures after which a board is set aside."""
    quarantine_seconds: Seconds = 3600.0
    """Seconds for which it is set aside before it is tried again."""
    max_placements: Positive = 5
    """Times that one job is given boards, before failing hardware ends it."""
    report_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """Largest share of a machine's boards that users' reports may set aside; 0 for none, else at least one board."""
    strikes: Positive = 3
    """Quarantines after which a board stays out of service until an operator returns it."""


class Hardware(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How boards are switched (`[hardware]`)."""

    stagger_ms: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Milliseconds, times its number in the frame, by which each board delays its power-on."""
    pace_seconds: Seconds = 0.0
    """Least seconds from the end of one command to a BMP to the start of the next."""
    power_on_tries: Positive = 3
    """Power-ons of a board that does not come up, before it counts as faulty."""
    verify_seconds: Interval = 10.0
    """Seconds from power-on in which all FPGAs of a board must be right."""


class Limits(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients may take of the network service (`[limits]`)."""

    line_bytes: Positive = 65536
    """Longest line of a request. The sender of a longer one is disconnected; the log has the beginning of the line."""
    write_buffer_bytes: Positive = 8 * 1024 * 1024
    """Unread bytes of replies and notifications at which a client is disconnected. Until then notifications are merged,
    and none is lost."""
    unsent_bytes: Positive = 256 * 1024 * 1024
    """Unread bytes of all clients together. Over it, the client for whom the most has waited for longest (bytes x
    seconds) is disconnected, and the next, until it is enough. Choose it larger than the longest reply: `list_jobs`
    of 100,000 jobs is some 30 MB."""
    pending_replies: Positive = 1024
    """Requests of one connection that may wait for their replies. No more are read until a reply has left."""
    connections: Positive = 16384
    """Connections in all, those in a TLS handshake included. One more is not let in."""
    connections_per_address: Positive = 4096
    """Connections from one address. One more is not let in. For this and all other limits, a network of 64 bits
    of IPv6 is one address."""
    commands_per_second: Seconds = 0.0
    """Commands a second from one address, on average; 0 for no limit. Further commands wait; keepalives are counted
    apart."""
    creates_per_second: Seconds = 10.0
    """Jobs a second created from one address, which may be that of a whole laboratory, on average; 0 for no limit. The
    first 1,000 in a row are free of it, then further ones wait."""
    jobs_per_owner: Count = 0
    """Queued and running jobs of one owner; 0 for no limit. One more gets an exception."""
    jobs_per_address: Count = 10_000
    """Queued and running jobs created from one address, which may be that of a whole laboratory; 0 for no limit. One
    more gets an exception."""
    watches_per_connection: Positive = 1024
    """Jobs and machines that one connection may watch by name. One more gets an exception."""
    queued_jobs: Positive = 100_000
    """Jobs that may wait in the queue, all in all. One more gets an exception."""


class Access(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may use the network service (`[access]`). The protocol knows no log-in, so addresses must do."""

    clients: tuple[str, ...] = ()
    """Networks that may connect, such as `"10.0.0.0/8"`; `[]` for everybody."""
    managers: tuple[str, ...] = ()
    """Networks that may end and switch jobs that another address created; `[]` for everybody."""
    tls_certificate: str = ""
    """PEM file, relative to the config file's folder, of the certificate and its chain; `""` for no encryption."""
    tls_key: str = ""
    """PEM file of its private key; `""` where the certificate's file holds that too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clients", "managers"):
            networks = tuple(getattr(self, name))
            msgspec.structs.force_setattr(self, name, networks)
            try:
                _networks(networks)
            except ValueError as error:
                raise ConfigurationValueError(f"Access: {name}={list(networks)!r}: {error}") from error
        if self.tls_key and not self.tls_certificate:
            raise ConfigurationValueError("Access: tls_key is given without tls_certificate; TLS needs both")

    def may_connect(self, host: str) -> bool:
        """Whether a client at this address may connect."""
        return _is_in(host, self.clients)

    def may_manage(self, host: str) -> bool:
        """Whether a client at this address may change jobs of other addresses."""
        return _is_in(host, self.managers)


class Web(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """HTTP: REST, and the proxy to boards (`[web]`). Without this table there is none. A front process serves it."""

    port: Annotated[int, Meta(ge=0, le=MAX_PORT)] = 8080
    """TCP port, for HTTP and TLS alike; 0 for any free one."""
    ip: str = ""
    """Address to listen on; `""` for every interface, IPv4 and IPv6."""
    base_url: str = ""
    """How clients reach it, such as `"https://spinnaker.example.org/spalloc"`; links in answers begin so. The path is
    `/spalloc` where none is given. `""` for `https://HOST:PORT/spalloc` with this computer's full name."""
    start: bool = True
    """Whether the server starts a front process where none runs. `false` where it has a unit or container of its
    own."""
    plain_http: bool = False
    """Whether HTTP without TLS is served to other computers, too, passwords included. To this one it always is."""
    tls_certificate: str = ""
    """PEM file, relative to the config file's folder, of the certificate and its chain; `""` to make one, signed by a
    certificate authority of this server's own."""
    tls_key: str = ""
    """PEM file of its private key; `""` where the certificate's file holds that too."""
    max_role: Literal["reader", "user", "operator", "admin"] = "user"
    """The most that anybody may by HTTP, whatever his or her account may."""
    emergency_code: str = ""
    """Code of the emergency stop by `GET emergencyStop?commandCode=`, as the Java server has it; `""` for none."""
    proxies: tuple[str, ...] = ()
    """Networks of reverse proxies, such as `"127.0.0.1/32"`: their `X-Forwarded-For`, `X-Forwarded-Proto` and
    `X-Forwarded-Host` are believed, so they must set all three, whatever clients have sent."""
    header_bytes: Positive = 16384
    """Longest head of a request, request line included. A longer one is answered with 431."""
    header_seconds: Interval = 10.0
    """Time for the head of a request, or for the TLS handshake, from its first byte; a connection that sends nothing
    at all is closed after `idle_seconds`."""
    body_bytes: Positive = 64 * 1024 * 1024
    """Longest body of a request: memory that is written. A longer one is answered with 413."""
    json_bytes: Positive = 1024 * 1024
    """Longest body of JSON or of a form, likewise; machine definitions may have `body_bytes`."""
    body_seconds: Interval = 60.0
    """Time for the body of a request."""
    idle_seconds: Interval = 75.0
    """A connection without a request is closed after so long. Longer than a reverse proxy in front keeps it."""
    connections: Positive = 12_000
    """Connections in all."""
    connections_per_address: Positive = 4096
    """Connections from one address, reverse proxies apart. A network of 64 bits of IPv6 is one address."""
    requests_per_second: Seconds = 200.0
    """Requests a second of one account, and from one address without an account, on average; 0 for no limit. One more
    is answered with 429."""
    long_polls: Positive = 11_000
    """Requests with `wait=true` that wait at the same time. One more is answered at once."""
    websockets: Positive = 1024
    """WebSockets to boards at the same time. One more is answered with 503."""
    websockets_per_job: Positive = 16
    """WebSockets to the boards of one job."""
    channels: Positive = 512
    """Channels (UDP sockets) of one WebSocket. For one more its client gets an error."""
    queued_bytes: Positive = 1024 * 1024
    """Bytes from boards that wait for one WebSocket to be read. Datagrams beyond it are dropped."""
    held_requests: Positive = 2000
    """Requests that wait for the server while it is away. One more is answered with 503."""
    hold_seconds: Seconds = 8.0
    """The longest that they wait; then they are answered with 503. Published clients wait 10 s."""
    drained: Positive = 4
    """Front processes that have been replaced and still serve connections. Before one more, the oldest ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tls_key and not self.tls_certificate:
            raise ConfigurationValueError("Web: tls_key is given without tls_certificate; TLS needs both")
        if self.base_url and not _is_url(self.base_url):
            wanted = "an address such as 'https://spinnaker.example.org/spalloc'"
            raise ConfigurationValueError(f"Web: base_url={self.base_url!r}: this is not {wanted}")
        msgspec.structs.force_setattr(self, "proxies", tuple(self.proxies))
        try:
            _networks(self.proxies)
        except ValueError as error:
            raise ConfigurationValueError(f"Web: proxies={list(self.proxies)!r}: {error}") from error

    def is_proxy(self, host: str) -> bool:
        """Whether what a client at this address says of others is believed."""
        return bool(self.proxies) and _is_in(host, self.proxies)


def _is_url(text: str) -> bool:
    """Return whether this is the address of a service by HTTP: a host, perhaps a port and a path, and nothing else."""
    try:
        parts = urlsplit(text)
        return re.fullmatch(r"https?://[^@?# ]+", text) is not None and (
            text.isascii() and text.isprintable() and parts.hostname is not None and parts.port != 0
        )
    except ValueError:  # neither a port nor an address of IPv6
        return False


@cache
def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in texts)


def _is_in(host: str, networks: tuple[str, ...]) -> bool:
    if not networks:
        return True
    try:
        address = ip_address(host)
    except ValueError:  # no address is known
        return False
    return any(address in network for network in _networks(networks))
