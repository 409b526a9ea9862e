"""A server on this machine that plays the part of the Hugging Face Hub that pushing and loading a detector need."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories as ``{name: {branch: {file: bytes}}}``, and what was asked."""

    def __init__(self):
        self.repos, self.private, self.blobs, self.asked = {}, {}, {}, []
        self.token, self.stopped = "hf_right", False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_one(self):
                if hub.stopped:  # connections that a client keeps open outlive their server
                    self.close_connection = True
                    return
                length = int(self.headers.get("Content-Length") or 0)
                hub.answer(self, urlsplit(self.path), self.rfile.read(length))

            do_GET = do_HEAD = do_POST = do_PUT = handle_one

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.stopped = True
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo, branch="main"):
        return self.repos[repo][branch]

    def answer(self, request, url, body):
        path = unquote(url.path)
        self.asked.append((request.command, path))
        may = request.headers.get("Authorization") == f"Bearer {self.token}"
        parts = path.strip("/").split("/")
        if request.command == "PUT":
            self.blobs[parts[-1]] = body
            return self.reply(request, 200, b"")
        if "resolve" in parts:
            return self.resolve(request, "/".join(parts[:2]), parts[3], "/".join(parts[4:]), may)
        if not may:
            return self.reply(request, 401, b"{}")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"alice/{asked['name']}"
            known = repo in self.repos
            self.repos.setdefault(repo, {"main": {}})
            self.private.setdefault(repo, asked.get("private", asked.get("visibility") == "private"))
            return self.reply(request, 409 if known else 200, {"url": f"{self.url}/{repo}", "id": repo, "name": repo})
        if path == "/api/validate-yaml":
            return self.reply(request, 200, {"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"{self.url}/blob/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.reply(request, 200, {"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")
        return self.act(request, parts, body)

    def act(self, request, parts, body):
        """What is done with a repository."""
        repo, action, revision = "/".join(parts[2:4]), parts[4], "/".join(parts[5:])
        if repo not in self.repos:
            return self.reply(request, 404, b"{}", code="RepoNotFound")
        if action == "branch":
            known = revision in self.repos[repo]
            self.repos[repo].setdefault(revision, dict(self.files(repo)))
            return self.reply(request, 409 if known else 200, b"{}")
        if action == "preupload":
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return self.reply(request, 200, {"files": modes})
        if action == "commit":
            return self.commit(request, repo, revision, [json.loads(line) for line in body.splitlines()])
        return self.reply(request, 404, b"{}")

    def commit(self, request, repo, branch, lines):
        files = self.files(repo, branch)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        sha = self.sha(files)
        found = {"success": True, "commitUrl": f"{self.url}/{repo}/commit/{sha}", "commitOid": sha}
        return self.reply(request, 200, found)

    def sha(self, files):
        return hashlib.sha1(b"".join(files[name] for name in sorted(files))).hexdigest()

    def resolve(self, request, repo, revision, name, may):
        if repo not in self.repos or (self.private[repo] and not may):
            return self.reply(request, 401 if not may else 404, b"", code="RepoNotFound")
        if revision not in self.repos[repo]:
            return self.reply(request, 404, b"", code="RevisionNotFound")
        files = self.files(repo, revision)
        if name not in files:
            return self.reply(request, 404, b"", code="EntryNotFound", commit=self.sha(files))
        content = files[name]
        etag = hashlib.sha256(content).hexdigest()
        return self.reply(request, 200, content, "application/octet-stream", commit=self.sha(files), etag=etag)

    def reply(self, request, status, content, kind="application/json", *, code=None, commit=None, etag=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        request.send_response(status)
        headers = {"X-Error-Code": code, "X-Repo-Commit": commit, "ETag": etag and f'"{etag}"'}
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            if value is not None:
                request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
