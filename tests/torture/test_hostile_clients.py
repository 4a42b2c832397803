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

MEMORY_MIB = 24.0
"""A client costs at most its longest reply, `write_buffer_bytes` (8 MiB) and the lines that it has sent; an attack here
is one client at a time, or a thousand that ask for nothing."""

JOBS = 300


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
    assert noticed.growth_mib < MEMORY_MIB
    assert "Traceback" not in subject.log.read_text()
    jobs = subject.ask("list_jobs")
    assert isinstance(jobs, list)
    assert len(jobs) == JOBS
    assert all(job["allocated_machine_name"] in {LIVE, None} for job in jobs)
