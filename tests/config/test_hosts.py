"""Hosts: which spellings are refused, and which mean the same host."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, strategies as st

from spalloc_server.config.hosts import canonical, network_of, why_no_host


@pytest.mark.parametrize(
    "host",
    [
        "bmp",
        "bmp.",
        "BMP-1.example.org",
        "spinn_1",
        "10.0.0.1",
        "::1",
        "fe80::1%eth0",
        "0:0::1",
        "b\u00fccher.example",
        "4u",
    ],
)
def test_what_a_resolver_can_take_is_a_host(host: str) -> None:
    assert why_no_host(host) is None


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("bmp:17893", "without a port"),
        ("10.0.0.1:17893", "without a port"),
        ("[::1]", "brackets"),
        ("[::1]:17893", "without a port"),
        ("http://bmp", "scheme"),
        ("bmp/1", "scheme"),
        ("10.0.0.0/8", "path"),
        ("10.0.0.256", "four numbers"),
        ("10.0.1", "four numbers"),
        ("010.0.0.1", "leading zeros"),
        ("10.0.0.1.5", "four numbers"),
        ("167772161", "four numbers"),
        ("0x7f.1", "four numbers"),
        ("0x7f000001", "four numbers"),
        ("a b", "no blanks"),
        (" bmp", "no blanks"),
        ("bmp\n", "no control characters"),
        ("bm\0p", "no control characters"),
        ("bm\udcf6p", "no control characters"),
        (".", "not empty"),
        ("a..b", "1 to 63 characters"),
        ("a" * 64, "1 to 63 characters"),
        ("a." * 128, "253"),
        ("bmp1,bmp2", "letters, digits"),
        ("root@bmp", "letters, digits"),
        ("*", "letters, digits"),
    ],
)
def test_what_no_resolver_can_take_or_would_take_for_something_else_is_refused(host: str, told: str) -> None:
    assert told in (why_no_host(host) or "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bmp", "BMP"),
        ("bmp.example", "Bmp.Example."),
        ("::1", "0:0:0::1"),
        ("FE80::A", "fe80::a"),
        ("10.0.0.1", "::ffff:10.0.0.1"),
        ("10.0.0.1", "::FFFF:0a00:0001"),
    ],
)
def test_spellings_of_one_host_are_the_same(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@given(st.ip_addresses())
def test_every_address_is_a_host_and_its_spellings_are_the_same(address: IPv4Address | IPv6Address) -> None:
    assert why_no_host(str(address)) is None
    assert canonical(str(address)) == canonical(address.exploded) == canonical(str(address).upper())


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
        ("somewhere", "somewhere"),
    ],
)
def test_a_network_is_an_address_or_what_a_home_has_of_ipv6(address: str | None, network: str) -> None:
    assert network_of(address) == network
