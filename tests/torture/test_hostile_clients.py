"""Clients that are broken, slow or hostile: the others hardly notice, memory stays bounded, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from benchmarks.crowds import ATTACKS, Sizes, notice
from benchmarks.generator import Generator
from benchmarks.subjects import LIVE, Subject, hardware, ours

pytestmark = pytest.mark.torture

OTHERS_P99_MS = 20.0
"""What others may notice, beyond what they notice where there is no attack: the computer may be busy otherwise."""

CLIENT_MIB = 1.5
"""What one client costs at most: its longest reply, here that to `list_jobs`, as it is made and as it is kept, and the
requests that have been read before they were answered (`docs/reference/limits.md`)."""

CROWDS = {"20 watchers that ask for all jobs and read nothing": 20, "100 clients that send and read nothing": 100}
"""Clients at once; in all other attacks one that asks for anything."""

ANYWAY_MIB = 24.0
"""What the allocator may keep, and a thousand connections that do nothing cost."""

JOBS = 3_000


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A server with jobs that run and jobs that wait."""
    folder = tmp_path_factory.mktemp("hostile")
    with hardware(folder) as config, ours(config, folder) as subject:
        subject.fill(JOBS, time.monotonic() + 60)
        yield subject


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator(tmp_path_factory.mktemp("generator"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_others_hardly_notice_an_attack_and_nothing_is_lost(
    attack: str, subject: Subject, generator: Generator
) -> None:
    sizes = Sizes()
    with notice(subject, generator, sizes) as quiet:
        time.sleep(sizes.seconds)
    with notice(subject, generator, sizes) as noticed:
        ATTACKS[attack](subject, sizes)
    assert noticed.errors == 0
    assert noticed.p99_ms < quiet.p99_ms + OTHERS_P99_MS
    assert noticed.growth_mib < ANYWAY_MIB + CLIENT_MIB * CROWDS.get(attack, 1)
    assert "Traceback" not in subject.log.read_text()
    jobs = subject.ask("list_jobs")
    assert isinstance(jobs, list)
    assert len(jobs) == JOBS
    assert all(job["allocated_machine_name"] in {LIVE, None} for job in jobs)
