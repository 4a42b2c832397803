"""Certificates: from files, and of an authority of the server's own."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import os
import ssl
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from spalloc_server.config.options import Web
from spalloc_server.errors import ConfigurationError, SpallocServerError
from spalloc_server.frontends.front_lock import CA_FILE, trusting
from spalloc_server.frontends.http.certificates import (
    CA_KEY_FILE,
    CERTIFICATE_FILE,
    context,
    names_in,
    own_certificate,
    wrong_time,
)
from tests.frontends.http.serving import Client, door

NAMES = frozenset({"localhost", "here.example.org", "127.0.0.1", "::1"})
NOW = dt.datetime.now(dt.UTC)


def days(number: float) -> dt.datetime:
    return NOW + dt.timedelta(days=number)


def serial(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


async def test_clients_that_trust_the_authority_can_connect(tmp_path: Path) -> None:
    folder = tmp_path / "web"
    ours = context(Web(base_url="https://spin.example.org/spalloc"), folder)
    theirs = ssl.create_default_context(cafile=trusting(folder)["REQUESTS_CA_BUNDLE"])
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 has it
    async with door(tls=ours) as it:
        for name in ("localhost", "127.0.0.1", "spin.example.org"):
            client = await Client.connect(it, ssl=theirs, server_hostname=name)
            assert (await client.get())[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await Client.connect(it, ssl=theirs, server_hostname="evil.example.org")


def test_keys_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "web"
    file = own_certificate(folder, NAMES)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, file, folder / CA_KEY_FILE)] == [0o700, 0o600, 0o600]
    assert stat.S_IMODE((folder / CA_FILE).stat().st_mode) == 0o644


def test_a_certificate_is_kept_until_it_nearly_ends(tmp_path: Path) -> None:
    first = serial(own_certificate(tmp_path, NAMES, NOW))
    authority = serial(tmp_path / CA_FILE)
    assert serial(own_certificate(tmp_path, NAMES, days(59))) == first
    assert serial(own_certificate(tmp_path, NAMES, days(61))) != first
    assert serial(tmp_path / CA_FILE) == authority


def test_a_certificate_is_made_anew_for_a_new_name_and_not_for_one_less(tmp_path: Path) -> None:
    first = serial(own_certificate(tmp_path, NAMES))
    assert serial(own_certificate(tmp_path, NAMES - {"localhost"})) == first
    file = own_certificate(tmp_path, NAMES | {"192.0.2.1"})
    assert serial(file) != first
    assert names_in(file) == NAMES | {"192.0.2.1"}


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def kept(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CA_FILE, CA_KEY_FILE, CERTIFICATE_FILE)}


def test_an_authority_lasts_ten_years_and_is_not_replaced_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_certificate(tmp_path, NAMES, NOW)
    first = serial(tmp_path / CA_FILE)
    own_certificate(tmp_path, NAMES, days(3600))
    capsys.readouterr()
    last = certificate(own_certificate(tmp_path, NAMES, days(3640)))
    assert "the certificate authority ends soon" in capsys.readouterr().out
    assert serial(own_certificate(tmp_path, NAMES, days(3645))) == last.serial_number, "none would last longer"
    assert serial(own_certificate(tmp_path, NAMES, days(3660))) == last.serial_number
    assert "a new one is made, which all clients have to be told to trust" in capsys.readouterr().out
    assert serial(tmp_path / CA_FILE) == first
    for name in (CA_FILE, CA_KEY_FILE, CERTIFICATE_FILE):  # as it says
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    new = certificate(own_certificate(tmp_path, NAMES, days(3660)))
    new.verify_directly_issued_by(certificate(tmp_path / CA_FILE))


def _encrypt(file: Path) -> None:
    key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    secret = serialization.BestAvailableEncryption(b"secret")
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))


def _replace_by_another(file: Path) -> None:
    own_certificate(file.parent / "other", NAMES)
    (file.parent / "other" / file.name).replace(file)


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, lambda file: file.write_bytes(b""), _replace_by_another],
    ids=["missing", "empty", "another's"],
)
@pytest.mark.parametrize("name", [CA_FILE, CA_KEY_FILE])
def test_where_a_part_of_the_authority_is_lost_the_certificate_stays_and_nothing_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    before = kept_after_damage(tmp_path, name, damage)
    ours = context(Web(), tmp_path)
    assert ours.get_ca_certs() == []
    own_certificate(tmp_path, NAMES | {"new.example.org"}, days(80))
    assert {each: data for each, data in kept_or_none(tmp_path).items() if each != name} == before
    told = capsys.readouterr().out
    assert "no certificate can be made: going on with the one that there is" in told
    assert "from a copy. If it is lost or over, move ca.pem, ca.key and certificate.pem out of" in told
    (tmp_path / CERTIFICATE_FILE).unlink()
    if (tmp_path / CA_FILE).exists():
        with pytest.raises(SpallocServerError, match="from a copy"):
            own_certificate(tmp_path, NAMES)


def kept_or_none(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.suffix in {".pem", ".key"}}


def kept_after_damage(folder: Path, name: str, damage: Callable[[Path], None]) -> dict[str, bytes]:
    """Files of an authority of which one is damaged, without that one."""
    own_certificate(folder, NAMES)
    damage(folder / name)
    return {each: data for each, data in kept_or_none(folder).items() if each != name}


def test_a_key_that_is_encrypted_is_not_replaced(tmp_path: Path) -> None:
    first = serial(own_certificate(tmp_path, NAMES))
    _encrypt(tmp_path / CA_KEY_FILE)
    encrypted = kept(tmp_path)
    assert serial(own_certificate(tmp_path, NAMES, days(80))) == first
    assert kept(tmp_path) == encrypted


def test_a_certificate_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    own_certificate(tmp_path, NAMES)
    authority = serial(tmp_path / CA_FILE)
    (tmp_path / CERTIFICATE_FILE).write_bytes(b"")
    found = certificate(own_certificate(tmp_path, NAMES))
    found.verify_directly_issued_by(certificate(tmp_path / CA_FILE))
    assert serial(tmp_path / CA_FILE) == authority


def test_an_authority_that_was_begun_and_not_finished_is_made(tmp_path: Path) -> None:
    own_certificate(tmp_path, NAMES)
    for name in (CA_FILE, CERTIFICATE_FILE):
        (tmp_path / name).unlink()
    found = certificate(own_certificate(tmp_path, NAMES))
    found.verify_directly_issued_by(certificate(tmp_path / CA_FILE))


def test_where_nothing_can_be_written_the_certificate_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = serial(own_certificate(tmp_path, NAMES))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert serial(own_certificate(tmp_path, NAMES, days(80))) == first
    assert "No space left on device" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.new")), "what is half written is taken away again"


# -------------------------------------------------------------------- clocks

WRONG = [-20000, -3000, -400, -100, -89, -50, -2, -0.5, 0.5, 2, 40, 65, 89, 100, 400, 3000, 4000, 23000]
"""Days by which a clock is wrong, from 1970 to 2090 or so."""


@pytest.mark.parametrize("age", [0, 1, 30, 59, 61, 85])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_clock_that_is_wrong_for_a_while_leaves_what_is_good_by_the_right_one(
    tmp_path: Path, wrong: float, age: float
) -> None:
    own_certificate(tmp_path, NAMES, days(0))
    own_certificate(tmp_path, NAMES, days(200))  # the next one
    authority = serial(tmp_path / CA_FILE)
    now = 200 + age
    for names in (NAMES, NAMES | {"new.example.org"}):
        own_certificate(tmp_path, names, days(now + wrong))
        meanwhile = certificate(tmp_path / CERTIFICATE_FILE)
        assert meanwhile.not_valid_before_utc <= days(now) < meanwhile.not_valid_after_utc, "clients know the time"
    found = certificate(own_certificate(tmp_path, NAMES | {"new.example.org"}, days(now)))
    assert found.not_valid_before_utc <= days(now)
    assert days(now + 30) < found.not_valid_after_utc
    assert names_in(tmp_path / CERTIFICATE_FILE) >= NAMES
    assert serial(tmp_path / CA_FILE) == authority


def test_certificates_do_not_grow_longer_and_longer(tmp_path: Path) -> None:
    for day in range(0, 3000, 25):
        names = NAMES | {f"host-{day}.example.org"} if day > 1500 else NAMES
        found = certificate(own_certificate(tmp_path, names, days(day)))
        assert found.not_valid_after_utc - found.not_valid_before_utc < dt.timedelta(days=398)


def test_no_authority_is_made_by_a_clock_that_is_surely_wrong(tmp_path: Path) -> None:
    early = dt.datetime(1970, 1, 1, 0, 5, tzinfo=dt.UTC)
    with pytest.raises(SpallocServerError, match="by this computer's clock it is 1970-01-01: set the clock"):
        own_certificate(tmp_path, NAMES, early)
    assert not (tmp_path / CA_FILE).exists()
    own_certificate(tmp_path, NAMES)
    own_certificate(tmp_path, NAMES, early)


def test_a_key_that_others_may_read_is_taken_from_them_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_certificate(tmp_path, NAMES)
    first = serial(tmp_path / CA_FILE)
    (tmp_path / CA_KEY_FILE).chmod(0o644)
    own_certificate(tmp_path, NAMES)
    assert stat.S_IMODE((tmp_path / CA_KEY_FILE).stat().st_mode) == 0o600
    assert serial(tmp_path / CA_FILE) == first
    assert "others could use this key" in "".join(capsys.readouterr())


def test_a_clock_that_no_certificate_knows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Clock:
            return cls(year, 1, 1, tzinfo=tz)

    monkeypatch.setattr("spalloc_server.frontends.http.certificates.dt.datetime", Clock)
    for year in (1949, 9998):
        with pytest.raises(SpallocServerError, match="clock"):
            context(Web(), tmp_path / str(year))


def test_processes_that_begin_at_the_same_time_make_one_authority(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        files = list(threads.map(lambda _: serial(own_certificate(tmp_path / "web", NAMES)), range(8)))
    assert len(set(files)) == 1


def test_files_that_the_configuration_names_are_used(tmp_path: Path) -> None:
    file = own_certificate(tmp_path / "theirs", NAMES)
    context(Web(tls_certificate=str(file)), tmp_path / "web")
    assert not (tmp_path / "web").exists()
    with pytest.raises(ConfigurationError, match="is no file"):
        context(Web(tls_certificate=str(tmp_path / "absent.pem")), tmp_path / "web")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "web").write_text("")
    with pytest.raises(SpallocServerError, match="no certificate can be kept in"):
        context(Web(), tmp_path / "web")


async def test_names_of_a_file_that_is_no_certificate_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nonsense")
    assert names_in(tmp_path / "x.pem") == names_in(tmp_path / "absent") == frozenset()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("made", "told"),
    [(-200, ["clients refuse"]), (-85, ["ends soon"]), (-10, [])],
)
def test_of_a_certificate_from_a_file_it_is_told_when_nobody_has_renewed_it(
    tmp_path: Path, made: float, told: list[str]
) -> None:
    file = own_certificate(tmp_path / "files", NAMES, days(made))
    with capture_logs() as lines:
        context(Web(tls_certificate=str(file)), tmp_path / "web")
    assert [text in line["reason"] for text, line in zip(told, lines, strict=True)] == [True] * len(told)


def test_a_certificate_that_is_not_good_yet_is_refused_by_clients_too(tmp_path: Path) -> None:
    file = own_certificate(tmp_path, NAMES, NOW)
    assert wrong_time(file, days(-5)) == (
        True,
        f"clients refuse {file}, which is good from {days(-1).date()} to {days(90).date()}: renew it",
    )
    assert wrong_time(tmp_path / "none") is None
