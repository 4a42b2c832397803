"""How many jobs owners, addresses and the queue may have."""

from __future__ import annotations

import pytest

from spalloc_server.config.options import Limits
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.errors import RequestError
from tests.core.machines import a_machine


def a_controller(limits: Limits) -> Controller:
    controller = Controller(clock=lambda: 1000.0, seconds_before_free=0)
    controller.configure(Configuration([a_machine("m", 1, 1)], limits=limits))
    return controller


def test_an_owner_over_the_limit_is_refused_until_a_job_ends_and_others_are_not() -> None:
    controller = a_controller(Limits(jobs_per_owner=2))
    first, second = (controller.create_job(owner="ada") for _ in range(2))
    with pytest.raises(RequestError, match=r"'ada' has 2 jobs, and 2 is the most .* destroy"):
        controller.create_job(owner="ada")
    controller.create_job(owner="grace")
    controller.destroy_job(first)
    assert controller.create_job(owner="ada") > second
    controller.check()


def test_a_job_counts_for_the_address_that_created_it_even_after_a_restart() -> None:
    controller = a_controller(Limits(jobs_per_address=1))
    job_id = controller.create_job(owner="ada", keepalivehost="10.0.0.1")
    controller.job_keepalive(job_id, keepalivehost="10.0.0.2")
    restarted = Controller(clock=lambda: 1000.0, seconds_before_free=0)
    restarted.restore(controller.snapshot())
    restarted.configure(Configuration([a_machine("m", 1, 1)], limits=Limits(jobs_per_address=1)))
    for each in (controller, restarted):
        with pytest.raises(RequestError, match=r"10\.0\.0\.1 has 1 jobs"):
            each.create_job(owner="grace", keepalivehost="10.0.0.1")
        each.create_job(owner="grace", keepalivehost="10.0.0.2")
        each.check()


def test_all_addresses_that_one_home_has_of_ipv6_count_as_one() -> None:
    controller = a_controller(Limits(jobs_per_address=1))
    job_id = controller.create_job(owner="ada", keepalivehost="2001:db8:1:2::1")
    controller.check()
    with pytest.raises(RequestError, match=r"2001:db8:1:2::/64 has 1 jobs"):
        controller.create_job(owner="grace", keepalivehost="2001:db8:1:2:ffff::7")
    controller.create_job(owner="grace", keepalivehost="2001:db8:1:3::1")
    controller.destroy_job(job_id)
    controller.create_job(owner="grace", keepalivehost="2001:db8:1:2:ffff::7")
    controller.check()


def test_jobs_that_no_client_has_made_are_not_counted_by_address() -> None:
    controller = a_controller(Limits(jobs_per_address=1))
    assert [controller.create_job(owner="ada") for _ in range(3)] == [1, 2, 3]
    controller.check()


def test_a_full_queue_refuses_more_until_somebody_leaves_it() -> None:
    controller = a_controller(Limits(queued_jobs=1))
    controller.create_job(3, owner="ada")
    waiting = controller.create_job(3, owner="ada")
    changes = controller.take_changes()
    assert set(changes.jobs) == {1, 2}
    with pytest.raises(RequestError, match="the queue holds 1 jobs"):
        controller.create_job(3, owner="grace")
    assert not controller.take_changes().jobs
    controller.destroy_job(waiting)
    assert controller.create_job(3, owner="grace") == 3


def test_a_reload_changes_the_limits() -> None:
    controller = a_controller(Limits())
    controller.create_job(owner="ada")
    controller.configure(Configuration([a_machine("m", 1, 1)], limits=Limits(jobs_per_owner=1)))
    with pytest.raises(RequestError):
        controller.create_job(owner="ada")


def test_what_is_kept_of_a_request_is_bounded_whatever_a_client_sends() -> None:
    controller = a_controller(Limits())
    long = "x" * 64_000
    for kwargs in ({"owner": long}, {"owner": "me", "tags": [long]}, {"owner": "me", "machine": long}):
        with pytest.raises(RequestError, match="at most 256"):
            controller.create_job(**kwargs)
    controller.create_job(*[None] * 10_000, owner="me", require_torus="")
    controller.create_job(2, owner="me", require_torus=long)
    assert all(len(repr(row)) < 1000 for row in controller.take_changes().jobs.values())
