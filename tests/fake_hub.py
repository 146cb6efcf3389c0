"""A Hugging Face Hub on loopback, in memory: the requests that huggingface_hub makes to read and write a model."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

MODEL = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/(?P<what>\w+)/(?P<revision>[^/]+))?$")
FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")


class Hub:
    """Repositories: id -> branch -> commit, commit -> path -> content; `log` has all requests, `refuse` a status."""

    def __init__(self):
        self.branches, self.commits, self.log = {}, {}, []
        self.private, self.refuse = {}, None

    def put(self, id, files, branch="main"):
        """Write a commit; returns its hash."""
        oid = hashlib.sha1(repr((id, branch, sorted(files.items()))).encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.branches.setdefault(id, {})[branch] = oid
        return oid

    def files(self, id, revision="main"):
        """Path -> content of a branch or commit; None if there is none."""
        return self.commits.get(self.branches[id].get(revision, revision))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, status=200, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        path = self.begin()
        if path is None:
            return
        for pattern, reply in ((MODEL, self.model), (FILE, self.file)):
            if match := pattern.match(path):
                self.known(reply, **match.groupdict())
                return
        self.answer(404)

    do_HEAD = do_GET  # noqa: N815

    def begin(self):
        """The path of the request, which is recorded; None if the server refuses it."""
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.log.append((self.command, path))
        if hub.refuse is not None:
            self.answer(hub.refuse)
            return None
        return path

    def known(self, reply, id, revision, **names):
        """Call a reply with the files of a revision, or say what is not there."""
        hub, revision = self.server.hub, revision or "main"
        if id not in hub.branches:
            self.answer(401, X_Error_Code="RepoNotFound")
        elif (files := hub.files(id, revision)) is None:
            self.answer(404, X_Error_Code="RevisionNotFound")
        else:
            reply(id, hub.branches[id].get(revision, revision), files, **names)

    def model(self, id, commit, files, what):
        if what == "tree":
            rows = [
                {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                for path, content in files.items()
            ]
            self.answer(content=rows)
            return
        siblings = [{"rfilename": path} for path in files]
        self.answer(content={"id": id, "sha": commit, "siblings": siblings, "private": False})

    def file(self, id, commit, files, path):
        if path not in files:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        self.answer(content=files[path], ETag=f'"{_oid(files[path])}"', X_Repo_Commit=commit)

    def do_POST(self):
        path = self.begin()
        if path is None:
            return
        hub, match = self.server.hub, MODEL.match(path)
        if path == "/api/validate-yaml":
            self.answer(content={"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            request = json.loads(self.body)
            id = f"{request['organization']}/{request['name']}"
            status = 409 if id in hub.branches else 200
            if status == 200:
                hub.private[id] = request.get("visibility")
                hub.put(id, {".gitattributes": b""})
            self.answer(status, {"url": f"{hub.address}/{id}", "id": id})
        elif match["what"] == "branch":
            branches = hub.branches[match["id"]]
            status = 409 if match["revision"] in branches else 200
            branches.setdefault(match["revision"], branches["main"])
            self.answer(status, {})
        elif match["what"] == "preupload":
            files = json.loads(self.body)["files"]
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in files
            ]
            self.answer(content={"files": modes})
        else:
            self.commit(match["id"], match["revision"])

    def commit(self, id, branch):
        files = dict(self.server.hub.files(id, branch))
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.server.hub.put(id, files, branch)
        url = f"{self.server.hub.address}/{id}/commit/{oid}"
        self.answer(content={"success": True, "commitOid": oid, "commitUrl": url})


def _oid(content):
    """The hash by which git knows a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serving():
    """A `Hub` that answers at its `address` while the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub = Hub()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
