"""What users are told of a job that waits: its place, when it will probably start, and why it waits.

Published clients have no field for that. It is the `reason` of a job's state, which their library has, and stands
behind the address of the job's user, which `spalloc-job` and `spalloc-ps` print.
"""

from __future__ import annotations

import time

from spalloc_server.core.model.forecast import Forecast

__all__ = ["between", "in_words"]


def in_words(forecast: Forecast) -> str:
    """Return one line for a job's user; times are local ones of this computer, and say so."""
    place = f"number {forecast.position} of {forecast.queued} in the queue"
    if forecast.earliest is None or forecast.latest is None:
        return f"{place}, {forecast.why}"
    how = "roughly" if forecast.estimated else "probably"
    return f"{place}, {how} starts {between(forecast.earliest, forecast.latest)}, {forecast.why}"


def between(earliest: float, latest: float) -> str:
    """Two times as local ones, for example `Tue 14:05 to 14:40 CET`; with dates where they are far apart."""
    first, last = time.localtime(earliest), time.localtime(latest)
    day = "%a" if latest - earliest < 86400 * 6 else "%d %b"
    same_day = first.tm_yday == last.tm_yday and first.tm_year == last.tm_year
    until = time.strftime("%H:%M" if same_day else f"{day} %H:%M", last)
    return f"{time.strftime(f'{day} %H:%M', first)} to {until} {time.strftime('%Z', last)}"
