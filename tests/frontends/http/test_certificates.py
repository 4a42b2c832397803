"""Certificates: from files, and of an authority of the server's own."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from spalloc_server.config.options import Web
from spalloc_server.errors import ConfigurationError, SpallocServerError
from spalloc_server.frontends.front_lock import CA_FILE, trusting
from spalloc_server.frontends.http.certificates import (
    CA_KEY_FILE,
    context,
    names_in,
    own_certificate,
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


def test_an_authority_lasts_ten_years_and_is_made_anew_then(tmp_path: Path) -> None:
    own_certificate(tmp_path, NAMES, NOW)
    first = serial(tmp_path / CA_FILE)
    own_certificate(tmp_path, NAMES, days(3600))
    assert serial(tmp_path / CA_FILE) == first
    last = x509.load_pem_x509_certificate(own_certificate(tmp_path, NAMES, days(3640)).read_bytes())
    assert serial(tmp_path / CA_FILE) != first
    last.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / CA_FILE).read_bytes()))


@pytest.mark.parametrize("damaged", [CA_FILE, CA_KEY_FILE, "certificate.pem"])
def test_what_is_damaged_is_made_anew(tmp_path: Path, damaged: str) -> None:
    own_certificate(tmp_path, NAMES)
    (tmp_path / damaged).write_bytes(b"")
    file = own_certificate(tmp_path, NAMES)
    found = x509.load_pem_x509_certificate(file.read_bytes())
    found.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / CA_FILE).read_bytes()))


def test_a_key_that_is_encrypted_is_made_anew(tmp_path: Path) -> None:
    own_certificate(tmp_path, NAMES)
    file = tmp_path / CA_KEY_FILE
    key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    secret = serialization.BestAvailableEncryption(b"secret")
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    found = x509.load_pem_x509_certificate(own_certificate(tmp_path, NAMES).read_bytes())
    found.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / CA_FILE).read_bytes()))


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
