"""`/metrics`: figures of the server and of this process, for Prometheus.

Theory of operation. The server is asked when somebody asks here, and at most once in `KEPT_SECONDS`; how long its
answer takes is a figure, too, and tells of its lag. While it is away there are this process's own figures only. They
are in a registry of their own, so that no library adds what nobody has asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spalloc_server.application.commands import Figures
from spalloc_server.frontends.http.answers import Answer, Receive, Scope, Send
from spalloc_server.frontends.http.asking import Asking, RefusedError, ServerAwayError

__all__ = ["Metrics", "OwnFigures"]

KEPT_SECONDS = 2.0
"""For so long figures of the server are told again, rather than asked for."""

KIND = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class _Machine(msgspec.Struct):
    name: str
    boards: dict[str, int]
    out_of_service: int


class _Server(msgspec.Struct):
    """What is told of `application.views.ServerView`."""

    jobs: dict[str, int]
    machines: list[_Machine]
    connections: int
    defects: int
    started_at: float


class OwnFigures(msgspec.Struct, frozen=True):
    """Of this process."""

    connections: int
    websockets: int
    lag: float
    """The most, in seconds, by which its event loop was late since this was asked for last."""
    defects: int


class Metrics:
    """Answers with figures.

    Args:
        asking: the server.
        own: tells this process's figures.
    """

    def __init__(self, asking: Asking, own: Callable[[], OwnFigures]) -> None:
        self._asking, self._own = asking, own
        self._server: _Server | None = None
        self._seconds = 0.0
        """In which the server answered."""
        self._asked = float("-inf")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Figures(self._metrics))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = time.monotonic()
        if begun - self._asked > KEPT_SECONDS:
            self._asked = begun
            try:
                self._server = await self._asking.ask(Figures(), _Server)
            except (RefusedError, ServerAwayError):
                self._server = None
            self._seconds = time.monotonic() - begun
        await Answer(status=200, body=generate_latest(self._registry), headers=(KIND,))(scope, receive, send)

    def _metrics(self) -> Iterator[Metric]:
        own, server = self._own(), self._server
        yield GaugeMetricFamily("spalloc_up", "Whether the server answers.", 0 if server is None else 1)
        yield GaugeMetricFamily("spalloc_web_connections", "Connections of HTTP clients.", own.connections)
        yield GaugeMetricFamily("spalloc_web_websockets", "Those that are WebSockets to boards.", own.websockets)
        yield GaugeMetricFamily("spalloc_web_lag_seconds", "By how much this process was late, at most.", own.lag)
        yield GaugeMetricFamily("spalloc_web_defects", "Defects of this process.", own.defects)
        if server is None:
            return
        yield GaugeMetricFamily("spalloc_answer_seconds", "In which the server answered.", self._seconds)
        yield GaugeMetricFamily("spalloc_start_time_seconds", "When the server started.", server.started_at)
        yield GaugeMetricFamily("spalloc_connections", "Connections of v1's clients.", server.connections)
        yield GaugeMetricFamily("spalloc_defects", "Defects of the server.", server.defects)
        yield _family("spalloc_jobs", "Live jobs; those that are queued wait for boards.", ["state"], server.jobs)
        boards = {(each.name, state): number for each in server.machines for state, number in each.boards.items()}
        yield _family("spalloc_boards", "Boards.", ["machine", "state"], boards)
        out = {each.name: each.out_of_service for each in server.machines}
        yield _family("spalloc_boards_out_of_service", "Boards that are given to nobody.", ["machine"], out)


class _Figures(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def _family(name: str, text: str, labels: list[str], figures: dict[str, int] | dict[tuple[str, str], int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, number in figures.items():
        family.add_metric([key] if isinstance(key, str) else list(key), number)
    return family
