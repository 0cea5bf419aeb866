"""A hub on this machine with one repository made of a folder: what huggingface-hub's client asks of the real one."""

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789012345678901234567890123456789"


class FakeHub:
    """Serves `folder` as `repo`, whole files and ranges of bytes.

    Attributes:
        given: Bytes given away of each file.
        whole: Files that were asked for whole.
        slow: Name of a file that trickles.
        broken: Files that are described, and cannot be had whole.
    """

    def __init__(self, folder: Path, repo: str = "owner/name") -> None:
        self.folder, self.repo, self.slow = folder, repo, ""
        self.given: dict[str, int] = {}
        self.whole: list[str] = []
        self.broken: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                path = self.path.partition("?")[0]
                if path.startswith(f"/api/models/{hub.repo}"):
                    return self.whole(json.dumps(hub.described(path)).encode(), "application/json", body)
                found = re.fullmatch(rf"/{hub.repo}/resolve/[^/]+/(.+)", path)
                if found is None or not (hub.folder / found[1]).is_file():
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.file(found[1], body)

            def whole(self, data: bytes, kind: str, body: bool) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def file(self, name: str, body: bool) -> None:
                data = (hub.folder / name).read_bytes()
                wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if name in hub.broken and body and not wanted:
                    self.send_response(500)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                part = data[int(wanted[1]) : int(wanted[2]) + 1] if wanted else data
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(part) if body else len(data)))
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                if wanted:
                    self.send_header("Content-Range", f"bytes {wanted[1]}-{int(wanted[1]) + len(part) - 1}/{len(data)}")
                self.end_headers()
                if body and not wanted:
                    hub.whole.append(name)
                step = max(1, len(part) // 8)
                for place in range(0, len(part) if body else 0, step):
                    try:
                        self.wfile.write(part[place : place + step])
                    except OSError:  # the client has gone
                        return
                    hub.given[name] = hub.given.get(name, 0) + len(part[place : place + step])
                    if name == hub.slow:
                        time.sleep(0.2)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def described(self, path: str) -> object:
        """What the hub says of the repository, or of its files."""
        files = sorted(p for p in self.folder.rglob("*") if p.is_file())
        names = [(str(p.relative_to(self.folder)), p.stat().st_size) for p in files]
        if "/tree/" in path:
            return [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in names]
        siblings = [{"rfilename": name, "size": size, "blobId": "0" * 40} for name, size in names]
        return {
            "id": self.repo,
            "modelId": self.repo,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }

    def environment(self, cache: Path) -> dict[str, str]:
        """What makes huggingface-hub of another process ask here."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "30",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
