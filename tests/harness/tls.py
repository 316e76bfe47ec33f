"""A certificate authority of the test's own, and a server's certificate from it. Needs `openssl`."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


class Authority:
    """`ca` is the file that clients trust; `server` makes what a server of those names speaks TLS with."""

    def __init__(self, folder: Path) -> None:
        self._dir = folder
        self.ca = folder / "ca.pem"
        self._run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")

    def _run(self, *args: str) -> None:
        subject = ("-subj", "/CN=agentrt test") if args[0] == "req" else ()
        subprocess.run(["openssl", *args, *subject], cwd=self._dir, check=True, capture_output=True)

    def server(self, *names: str) -> ssl.SSLContext:
        """A context for a server; names as in a certificate, `DNS:localhost` or `IP:127.0.0.1`."""
        self._run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr")
        (self._dir / "names").write_text(f"subjectAltName={','.join(names)}\n")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        self._run("x509", "-req", "-in", "server.csr", "-out", "server.pem", *signing)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._dir / "server.pem", self._dir / "server.key")
        return context
