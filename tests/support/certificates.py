"""Certificates of a test's own authorities, as PEM files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


class Authority:
    """A certificate authority of the tests, and the certificates that it issues.

    Attributes:
        file: its own certificate.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ca = trustme.CA(organization_name=f"Tapedeck tests {name}")
        self._folder = folder
        self.file = str(folder / f"{name}.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *names: str, days: float = 30) -> tuple[str, str]:
        """Issue a certificate; return the paths of its file and of its key's file.

        Files of an earlier certificate with this name are overwritten.

        Args:
            name: of the files.
            names: the hosts that the certificate is valid for; 127.0.0.1 and localhost by default.
            days: until it expires; negative for a certificate that has expired.
        """
        now = datetime.now(UTC)
        made = self._ca.issue_cert(
            *(names or ("127.0.0.1", "localhost")),
            common_name=name,
            not_before=now - timedelta(days=60),
            not_after=now + timedelta(days=days),
        )
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        # Two files cannot be replaced at once: a reader may see the new key, the old certificate.
        key.write_bytes(made.private_key_pem.bytes())
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        return str(certificate), str(key)
