"""What connections are encrypted with: certificates from files, or of a certificate authority of this server's own.

Theory of operation. Published clients follow links to `https` only, so there is always a certificate. Where the
configuration names none, this process makes a certificate authority (CA) once, in a folder beside the state, and signs
a certificate for all names of this computer with it. Clients have to be told to trust the CA (`trusting`). It lasts
ten years; the certificate is made anew, without anybody's doing, before it ends, and when this computer has names that
it does not have. Several processes may do so at the same time: a lock in the folder lets one after the other, and files
are put in their places whole. Keys can be read by their owner only.

**No CA is ever replaced**, since all clients would have to be told: only where there is nothing at all, one is made.
Where a part of it is missing, or its time is over or yet to come, the certificate that there is goes on to be used,
and the log says what to do. A clock that is wrong for a while does no harm either: a certificate that is made in place
of another one is good at all times at which this can be, see `_time_after`.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spalloc_server.config.options import Web
from spalloc_server.config.tls import tls_context
from spalloc_server.errors import ConfigurationError, SpallocServerError
from spalloc_server.frontends.front_lock import CA_FILE, trusting
from spalloc_server.frontends.http.names import own_names
from spalloc_server.log.logger import get_logger

__all__ = ["CERTIFICATE_FILE", "context", "names_in", "own_certificate", "wrong_time"]

CA_KEY_FILE: Final = "ca.key"
CERTIFICATE_FILE: Final = "certificate.pem"
"""Certificate and key."""
LOCK_FILE: Final = "certificates.lock"

CA_DAYS: Final = 3652
DAYS: Final = 90
RENEWAL_DAYS: Final = 30
"""Before its end, a certificate is made anew."""

SOON_DAYS: Final = 7
"""Before the end of a certificate from a file, the log tells of that: whoever renews it has not."""

EARLIER_DAYS: Final = 300
"""A certificate that takes the place of another one begins at most so long before it is made."""

EARLIEST: Final = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
"""No clock that is right tells an earlier time."""

MAX_NAME: Final = 253
USES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)

log = get_logger(__name__)


def context(web: Web, folder: Path) -> ssl.SSLContext:
    """Return what connections are encrypted with: the files of `web`, or this server's own certificate.

    Args:
        web: its files are absolute paths.
        folder: of what this makes itself.

    Raises:
        ConfigurationError: the files cannot be used.
        SpallocServerError: there is none of this server's own, and none can be made.
    """
    if web.tls_certificate:
        made = tls_context(web, Path("/"))
        if (wrong := wrong_time(Path(web.tls_certificate))) is not None:
            log.warning("a certificate is to be renewed", reason=wrong[1])
    else:
        try:
            made = tls_context(Web(tls_certificate=str(own_certificate(folder, _wanted(web)))), Path("/"))
        except OSError as exc:
            raise SpallocServerError(f"no certificate can be kept in {folder}: {exc.strerror or exc}") from exc
        except (ValueError, OverflowError) as exc:  # certificates know the years from 1950 to 9999
            raise SpallocServerError(f"no certificate can be made; is this computer's clock right? {exc}") from exc
    if made is None:
        raise ConfigurationError("there is no certificate")
    made.num_tickets = 1  # with none, requests of clients without TCP_NODELAY take 40 ms longer
    return made


def wrong_time(certificate: Path, now: dt.datetime | None = None) -> tuple[bool, str] | None:
    """Return what is wrong with the time of a certificate that somebody else renews; None where nothing is.

    Returns:
        (whether clients refuse it, what is wrong).
    """
    now, found = now or dt.datetime.now(dt.UTC), _loaded(certificate)
    if found is None:
        return None
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    if not begins <= now <= ends:
        return True, f"clients refuse {certificate}, which is good from {begins.date()} to {ends.date()}: renew it"
    if ends - now < dt.timedelta(days=SOON_DAYS):
        return False, f"{certificate} ends soon, on {ends.date()}: renew it"
    return None


def names_in(certificate: Path) -> frozenset[str]:
    """Return the names and addresses in a certificate, in lower case; none where it cannot be read."""
    try:
        return _names(x509.load_pem_x509_certificate(certificate.read_bytes()))
    except (OSError, ValueError):
        return frozenset()


def _names(found: x509.Certificate) -> frozenset[str]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    of_hosts = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    return frozenset([*of_hosts, *map(str, names.get_values_for_type(x509.IPAddress))])


class _UnusableError(Exception):
    """The certificate authority cannot sign; the text says what to do."""


def own_certificate(folder: Path, names: frozenset[str], now: dt.datetime | None = None) -> Path:
    """Return the file of this server's own certificate and its key, made anew where that is due and can be.

    Args:
        folder: where it is; made where it is not there.
        names: that it must be for.
        now: by default, the present time.

    Raises:
        SpallocServerError, OSError, ValueError, OverflowError: there is none, and none can be made.
    """
    now = now or dt.datetime.now(dt.UTC)
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / CERTIFICATE_FILE
    with _alone(folder):
        found = _loaded(file)
        try:
            ca, key = _authority(folder, now)
            if found is None or not _is_issued_by(found, ca):
                _make(file, ca, key, names, ca.not_valid_before_utc, now + dt.timedelta(days=DAYS))
            elif not _lasts(found, ca, now) or not names <= _names(found):
                _make(file, ca, key, names, *_time_after(found, now))
        except (_UnusableError, OSError, ValueError, OverflowError) as exc:
            if found is not None:
                log.error("no certificate can be made: going on with the one that there is", reason=str(exc))
            elif isinstance(exc, _UnusableError):
                raise SpallocServerError(str(exc)) from exc
            else:
                raise
    return file


def _make(
    file: Path,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    names: frozenset[str],
    begins: dt.datetime,
    ends: dt.datetime,
) -> None:
    key, ends = ec.generate_private_key(ec.SECP256R1()), min(ends, ca.not_valid_after_utc)
    builder = _builder(_name("spalloc_server"), ca.subject, key, begins, ends, uses={"digital_signature"})
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(sorted(map(_host, names), key=str)), critical=False)
    of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(of_issuer, critical=False)
    _write(file, _pem(builder.sign(ca_key, hashes.SHA256())) + _pem_of_key(key), mode=0o600)
    log.info("a certificate was made", file=str(file), names=sorted(names), ends=str(ends.date()))


def _authority(folder: Path, now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the certificate authority and its key; a new one where there is nothing at all.

    Raises:
        _UnusableError: it is not whole, or not good at present.
    """
    file, key_file = folder / CA_FILE, folder / CA_KEY_FILE
    if not file.exists() and not (folder / CERTIFICATE_FILE).exists():  # nobody trusts a key alone
        return _new_authority(folder, now)
    if_lost = (
        f"If it is lost or over, move {CA_FILE}, {CA_KEY_FILE} and {CERTIFICATE_FILE} out of {folder}: then a new one"
        " is made, which all clients have to be told to trust"
    )
    try:
        ca = x509.load_pem_x509_certificate(file.read_bytes())
        key = serialization.load_pem_private_key(_secret(key_file), password=None)
    except FileNotFoundError as exc:
        told = f"{exc.filename} is missing, a part of the certificate authority: put it back, from a copy. {if_lost}"
        raise _UnusableError(told) from exc
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: the key is encrypted
        told = (
            f"{CA_FILE} or {CA_KEY_FILE} in {folder} is damaged, or has a password: put it back, from a copy. {if_lost}"
        )
        raise _UnusableError(told) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise _UnusableError(f"{key_file} is not the key of {CA_FILE}: put the right one back, from a copy. {if_lost}")
    begins, ends = ca.not_valid_before_utc, ca.not_valid_after_utc
    if not begins <= now <= ends:
        told = (
            f"by this computer's clock it is {now.date()}, and the certificate authority in {folder} is good from"
            f" {begins.date()} to {ends.date()}: set the clock, if that is wrong. {if_lost}"
        )
        raise _UnusableError(told)
    if ends - now < dt.timedelta(days=RENEWAL_DAYS):
        log.warning("the certificate authority ends soon", folder=str(folder), ends=str(ends.date()))
    return ca, key


def _new_authority(folder: Path, now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if now < EARLIEST:
        raise _UnusableError(
            f"by this computer's clock it is {now.date()}: set the clock, then certificates can be made"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"spalloc_server of {socket.gethostname()}")
    begins, ends = now - dt.timedelta(days=1), now + dt.timedelta(days=CA_DAYS)
    builder = _builder(name, name, key, begins, ends, uses={"key_cert_sign", "crl_sign"})
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = builder.sign(key, hashes.SHA256())
    _write(folder / CA_KEY_FILE, _pem_of_key(key), mode=0o600)
    _write(folder / CA_FILE, _pem(ca), mode=0o644)
    log.info("a certificate authority was made: clients have to trust it", trust=trusting(folder))
    return ca, key


def _secret(file: Path) -> bytes:
    """Return what is in a file that nobody else may read, and see to that."""
    if (mode := stat.S_IMODE(file.stat().st_mode)) & 0o077:
        log.warning("others could use this key: see whether they did", file=str(file), mode=f"{mode:o}")
        file.chmod(0o600)
    return file.read_bytes()


def _loaded(file: Path) -> x509.Certificate | None:
    """Return the certificate in a file; None where there is none."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _is_issued_by(found: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        found.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _lasts(found: x509.Certificate, ca: x509.Certificate, now: dt.datetime) -> bool:
    """Return whether a certificate does not end soon, or another one would not last longer."""
    ends = found.not_valid_after_utc
    return ends - now > dt.timedelta(days=RENEWAL_DAYS) or ends == ca.not_valid_after_utc


def _time_after(found: x509.Certificate, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return from when and until when a certificate is good that takes the place of another one.

    The clock may be wrong now, or may have been wrong when the other one was made. So the new certificate covers the
    time of the other one, and the present. Where the other one is as it should be, the new one begins at most
    `EARLIER_DAYS` ago: else certificates would become longer and longer.
    """
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    is_due = ends - now <= dt.timedelta(days=RENEWAL_DAYS)
    if ends >= now and (is_due or ends - begins <= dt.timedelta(days=EARLIER_DAYS + DAYS)):
        begins = max(begins, now - dt.timedelta(days=EARLIER_DAYS))
    return begins, max(ends, now + dt.timedelta(days=DAYS))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: dt.datetime,
    ends: dt.datetime,
    *,
    uses: set[str],
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begins).not_valid_after(ends)
    usage = x509.KeyUsage(**{use: use in uses for use in USES})
    builder = builder.add_extension(usage, critical=True)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _wanted(web: Web) -> frozenset[str]:
    """Return what this computer is called."""
    names = {*own_names(), (urlsplit(web.base_url).hostname or "").lower()}
    return frozenset(name for name in names if name and name.isascii() and len(name) <= MAX_NAME)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(file: Path, data: bytes, *, mode: int) -> None:
    """Put a file in its place, whole."""
    made = file.with_name(f"{file.name}.new")
    number = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(number, "wb") as stream:
            os.fchmod(number, mode)
            stream.write(data)
            stream.flush()
            os.fsync(number)
        made.replace(file)
    except OSError:
        made.unlink(missing_ok=True)
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other process make certificates meanwhile."""
    number = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)
