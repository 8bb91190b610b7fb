# SPDX-License-Identifier: GPL-2.0-or-later
"""A small authority, and certificates of hosts: good ones, and others."""

import datetime
import functools
import ipaddress
import pathlib
import shutil
import tempfile
import atexit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
PURPOSES = {"server": ExtendedKeyUsageOID.SERVER_AUTH,
            "client": ExtendedKeyUsageOID.CLIENT_AUTH}


def write(path, *things):
    """Keys and certificates, behind each other, for their owner alone."""
    pem = b"".join(
        thing.public_bytes(serialization.Encoding.PEM)
        if isinstance(thing, x509.Certificate) else
        thing.private_bytes(serialization.Encoding.PEM,
                            serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption())
        for thing in things)
    path.touch(0o600)
    path.write_bytes(pem)
    return path


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    def __init__(self, directory, text="lab"):
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = name(text)
        self.cert = self.sign(self.name, self.key, x509.BasicConstraints(True, 0))
        self.file = write(directory / f"{text}-ca.pem", self.cert)

    def sign(self, subject, key, *extensions, begin=-DAY, end=DAY):
        now = datetime.datetime.utcnow()
        builder = x509.CertificateBuilder(
            self.name, subject, key.public_key(), x509.random_serial_number(),
            now + begin, now + end)
        for extension in extensions:
            builder = builder.add_extension(extension, False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, label, names, purposes=("server", "client"),
              directory=None, **dates):
        """Returns the files of a certificate and its key."""
        directory = directory or self.directory
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = []
        for each in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(each)))
            except ValueError:
                alternatives.append(x509.DNSName(each))
        cert = self.sign(
            name(label), key,
            x509.ExtendedKeyUsage([PURPOSES[each] for each in purposes]),
            *([x509.SubjectAlternativeName(alternatives)] if names else []),
            **dates)
        return (write(directory / f"{label}-cert.pem", cert),
                write(directory / f"{label}-key.pem", key))


def options(ca, server, client):
    """Those of remapd; `server` and `client` are as from issue()."""
    return ("--tls-ca", ca, "--tls-server-cert", server[0],
            "--tls-server-key", server[1], "--tls-client-cert", client[0],
            "--tls-client-key", client[1])


@functools.cache
def lab_authority():
    """The one of this process, and of those that it forks from now on."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="remapd-pki-"))
    atexit.register(shutil.rmtree, directory)
    return Authority(directory)


def host_options(host):
    """For a host of the lab: encryption, by a certificate for its address."""
    authority = lab_authority()
    files = authority.issue(f"host-{host.address}", [host.address],
                            directory=host.directory)
    return ("--tls", "on", *options(authority.file, files, files))
