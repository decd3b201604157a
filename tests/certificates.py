"""Certificates for tests: an authority, and what it has signed."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority whose files lie in a folder."""

    def __init__(self, folder, name):
        self._folder, self._authority = folder, trustme.CA(organization_name=name)
        self.certificate = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.certificate)

    def sign(self, *names):
        """A new key, and its certificate for host names and addresses; the first one names the files."""
        issued = self._authority.issue_cert(*names)
        pair = Pair(certificate=self._folder / f"{names[0]}.pem", key=self._folder / f"{names[0]}.key")
        issued.cert_chain_pems[0].write_to_path(pair.certificate)
        issued.private_key_pem.write_to_path(pair.key)
        return pair
