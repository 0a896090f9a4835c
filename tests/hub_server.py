"""A stand-in for the Hugging Face Hub: the part of its HTTP interface that uploading and downloading a model use.

Repositories are kept in memory. As on the Hub, weights go through Git LFS and are served by a redirect; a commit is a
list of JSON lines; a refusal has its reason in `X-Error-Code`. The Hub's newer storage (Xet) is not here: clients are
told not to use it by HF_HUB_DISABLE_XET.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_of_the_test"


@dataclass
class Repository:
    """Files by commit, oldest commit first; each file is its content, or the digest of a large one."""

    private: bool = False
    commits: dict[str, dict[str, bytes | str]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    claimed_size: int | None = None  # what it says of a large file, whatever its size

    def at(self, revision: str) -> tuple[str, dict[str, bytes | str]] | None:
        commit = list(self.commits)[-1] if revision == "main" and self.commits else revision
        return (commit, self.commits[commit]) if commit in self.commits else None


class Hub(ThreadingHTTPServer):
    """Serves on 127.0.0.1 while it is a context."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    @property
    def may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_HEAD(self) -> None:
        self.serve()

    def do_GET(self) -> None:
        self.serve()

    def serve(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        parts = self.path.strip("/").split("/")
        if parts[0] == "large":
            self.answer(200, self.server.large[parts[1]], ETag=f'"{parts[1]}"')
            return
        if len(parts) != 5 or parts[2] != "resolve":
            self.answer(404)  # such as questions that have nothing to do with files
            return
        user, name, _, revision, file = parts
        repository = self.server.repositories.get(f"{user}/{name}")
        if repository is None or (repository.private and not self.may_write):
            self.refuse(401, "RepoNotFound")
        elif (found := repository.at(revision)) is None:
            self.refuse(404, "RevisionNotFound")
        elif file not in found[1]:
            self.refuse(404, "EntryNotFound")
        elif isinstance(content := found[1][file], bytes):
            self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=found[0])
        else:
            size = repository.claimed_size or len(self.server.large[content])
            headers = {"X_Linked_ETag": f'"{content}"', "X_Linked_Size": str(size), "X_Repo_Commit": found[0]}
            # Another host, as on the Hub: a client does not follow it when it asks for the headers alone.
            place = f"http://localhost:{self.server.server_port}/large/{content}"
            self.answer(302, b"", Location=place, **headers)

    def do_PUT(self) -> None:
        self.server.requests.append(f"PUT {self.path}")
        body = self.body()
        digest = hashlib.sha256(body).hexdigest()
        if not self.path.endswith(digest):
            self.answer(400)
            return
        self.server.large[digest] = body
        self.answer(200)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        body = self.body()
        if not self.may_write:
            self.answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.validate(json.loads(body)["content"])
        elif self.path.endswith("/verify"):
            self.answer(200 if json.loads(body)["oid"] in self.server.large else 404)
        elif self.path.endswith("/info/lfs/objects/batch"):
            self.answer(200, {"transfer": "basic", "objects": [self.place(o) for o in json.loads(body)["objects"]]})
        else:
            _, _, user, name, action, _ = self.path.strip("/").split("/")
            if action == "preupload":
                self.answer(200, {"files": [self.mode(file["path"]) for file in json.loads(body)["files"]]})
            else:
                self.commit(f"{user}/{name}", [json.loads(line) for line in body.splitlines()])

    def create(self, wanted: dict[str, Any]) -> None:
        repo_id = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
        address = {"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id}
        if repo_id in self.server.repositories:
            self.answer(409, {"error": "exists", **address})
            return
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.server.repositories[repo_id] = Repository(private)
        self.answer(200, address)

    def validate(self, card: str) -> None:
        _, front, _ = card.split("---\n", 2)
        content = yaml.safe_load(front)
        wrong = [] if "library_name" in content else [{"message": "no library_name"}]
        self.answer(400 if wrong else 200, {"errors": wrong, "warnings": []})

    def place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        to = f"{self.server.endpoint}/large/{wanted['oid']}"
        return {**wanted, "actions": {"upload": {"href": to}, "verify": {"href": f"{to}/verify"}}}

    def mode(self, path: str) -> dict[str, Any]:
        large = path.endswith(".safetensors")
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def commit(self, repo_id: str, lines: list[dict[str, Any]]) -> None:
        repository = self.server.repositories[repo_id]
        now = repository.at("main")
        files = dict(now[1]) if now else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile" and value["oid"] in self.server.large:
                files[value["path"]] = value["oid"]
            else:
                self.answer(400, {"error": f"cannot {line['key']}"})
                return
        number = hashlib.sha1(f"{repo_id} {len(repository.commits)}".encode()).hexdigest()
        repository.commits[number] = files
        address = f"{self.server.endpoint}/{repo_id}/commit/{number}"
        self.answer(200, {"success": True, "commitOid": number, "commitUrl": address, "hookOutput": ""})
