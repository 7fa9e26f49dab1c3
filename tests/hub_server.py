"""A small Hugging Face Hub: the part of its HTTP protocol that is needed to publish and load models.

Tests use the real client. It reads HF_ENDPOINT when it is imported, so `Client` is a process of its own that
is started with this variable. Repositories are held in memory; `Hub.requests` lists the requests.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

ROOT = Path(__file__).parent.parent
ID = r"(?P<repo>[\w.-]+/[\w.-]+)"


def token(role="write", **fine_grained):
    """Return the answer of whoami-v2 for a user `me`, who may write in `lab` and read in `library`."""
    access = {"displayName": f"my {role} token", "role": role, **fine_grained}
    orgs = [
        {"type": "org", "name": "lab", "roleInOrg": "write"},
        {"type": "org", "name": "library", "roleInOrg": "read"},
    ]
    return {"type": "user", "name": "me", "orgs": orgs, "auth": {"accessToken": access}}


def narrow(*permissions, entity="me"):
    """Return a fine-grained token with these permissions in one namespace."""
    scope = {"entity": {"type": "user", "name": entity}, "permissions": list(permissions)}
    return token("fineGrained", fineGrained={"global": [], "scoped": [scope]})


TOKENS = {
    "hf_writes": token(),
    "hf_reads": token("read"),
    "hf_narrow": narrow("repo.content.read", "repo.write"),
    "hf_elsewhere": narrow("repo.content.read", "repo.write", entity="lab"),
    "hf_narrow_reads": narrow("repo.content.read"),
}


@dataclass
class Repository:
    private: bool = False
    # Each commit: its message, and path -> content.
    commits: list = field(
        default_factory=lambda: [("initial commit", {".gitattributes": b"*.safetensors lfs"})]
    )

    @property
    def files(self):
        return self.commits[-1][1]

    def sha(self, index=-1):
        message, files = self.commits[index]
        position = index % len(self.commits)
        told = [
            position,
            message,
            sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items()),
        ]
        return hashlib.sha1(json.dumps(told).encode()).hexdigest()


class Hub:
    """The server and its state.

    Args:
        repositories: (kind, namespace/name) -> repository; kinds are models, datasets, spaces.
        renamed: old name -> new name.
        breaks: a pattern of `METHOD path`; a matching request is answered by nothing at all, or by `status`.
    """

    def __init__(self):
        self.repositories, self.renamed, self.objects, self.verified = {}, {}, {}, set()
        self.requests, self.created, self.breaks, self.status = [], [], None, None
        self.holds = None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self, home, token="hf_writes"):
        """Return the variables of a client: this server, a home of its own, online, large files by LFS."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        online = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        mine = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return kept | online | mine | {"PYTHONPATH": path} | ({"HF_TOKEN": token} if token else {})

    @contextlib.contextmanager
    def broken(self, pattern, status=None):
        """Make matching requests fail."""
        self.breaks, self.status = pattern, status
        try:
            yield
        finally:
            self.breaks = None

    @contextlib.contextmanager
    def held(self, pattern):
        """Answer no matching request inside the block; the event that is given is set when one arrives."""
        arrived, self.ends = threading.Event(), threading.Event()
        self.holds = pattern, arrived
        try:
            yield arrived
        finally:
            self.holds = None
            self.ends.set()

    def model(self, name):
        return self.repositories["models", name]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        split = urlsplit(self.path)
        path, self.query = unquote(split.path), parse_qs(split.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = f"{self.command} {path}"
        self.hub.requests.append(asked)
        if self.hub.breaks and re.search(self.hub.breaks, asked):
            if self.hub.status is None:
                self.close_connection = True
                return self.connection.close()
            return self.fail(self.hub.status, "", "it is broken")
        if self.hub.holds and re.search(self.hub.holds[0], asked):
            self.hub.holds[1].set()
            self.hub.ends.wait(60)
            self.close_connection = True
            return self.connection.close()
        for pattern, action in ROUTES:
            if found := re.fullmatch(pattern, asked):
                return action(self, **found.groupdict())
        return self.fail(404, "", f"no such page: {asked}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def log_message(self, *given):
        pass

    # Who

    def who(self):
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def may_write(self, repo):
        who, namespace = self.who(), repo.partition("/")[0]
        if who is None or namespace not in ("me", "lab"):
            return False
        access = who["auth"]["accessToken"]
        scopes = access.get("fineGrained", {}).get("scoped", [])
        return access["role"] == "write" or any(
            scope["entity"]["name"] == namespace and "repo.write" in scope["permissions"] for scope in scopes
        )

    def find(self, kind, repo):
        """Return a repository that the client may read; else send an error and return None."""
        if repo in self.hub.renamed and kind == "models":
            self.answer(b"", 307, {"Location": self.path.replace(repo, self.hub.renamed[repo])})
            return None
        found = self.hub.repositories.get((kind, repo))
        if found is None or (found.private and self.who() is None):
            self.fail(404 if self.who() else 401, "RepoNotFound", "Repository not found")
            return None
        return found

    def writable(self, repo):
        found = self.find("models", repo)
        if found is not None and not self.may_write(repo):
            self.fail(403, "", "Forbidden: you must have write access")
            return None
        return found

    # Answers

    def answer(self, content, status=200, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value, status=200, headers=()):
        self.answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **dict(headers)})

    def fail(self, status, code, message):
        self.json(
            {"error": message},
            status,
            {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})},
        )

    # Pages

    def whoami(self):
        self.json(self.who()) if self.who() else self.fail(
            401, "", "Invalid credentials in Authorization header"
        )

    def validate(self):
        header = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        try:
            right = header and isinstance(yaml.safe_load(header[1]), dict)
        except yaml.YAMLError:
            right = False
        wrong = [] if right else [{"message": "the metadata are not a mapping"}]
        self.json({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    def create(self):
        asked = json.loads(self.body)
        repo = f"{asked['organization'] or 'me'}/{asked['name']}"
        self.hub.created.append(asked)
        if not self.may_write(repo):
            return self.fail(403, "", f"You don't have the rights to create a model under {repo}")
        url = f"{self.hub.url}/{repo}"
        if ("models", repo) in self.hub.repositories:
            return self.json({"error": "You already created this model repo", "url": url}, 409)
        self.hub.repositories["models", repo] = Repository(private=asked.get("visibility") == "private")
        return self.json({"url": url, "name": repo})

    def info(self, kind, repo, revision="main"):
        if (found := self.find(kind, repo)) is not None:
            files = [{"rfilename": path} for path in sorted(found.files)]
            self.json(
                {"id": repo, "sha": found.sha(), "private": found.private, "siblings": files, "tags": []}
            )

    def check_write(self, repo):
        if self.writable(repo) is not None:
            self.json({})

    def preupload(self, repo, revision):
        if (found := self.writable(repo)) is None:
            return
        answers = []
        for file in json.loads(self.body)["files"]:
            large = file["path"].endswith(".safetensors")
            there = found.files.get(file["path"])
            oid = there if there is None else hashlib.sha256(there).hexdigest() if large else git_hash(there)
            mode = "lfs" if large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.json({"files": answers})

    def batch(self, repo):
        if self.writable(repo) is None:
            return
        answers = []
        for one in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.hub.url}/storage/{one['oid']}", "header": {}}
            verify = {"href": f"{self.hub.url}/verify/{repo}", "header": {}}
            known = one["oid"] in self.hub.verified
            answers.append({**one, **({} if known else {"actions": {"upload": upload, "verify": verify}})})
        self.json({"transfer": "basic", "objects": answers})

    def store(self, oid):
        # Uploads go to a storage that does not know the Hub's tokens.
        if "Authorization" in self.headers or hashlib.sha256(self.body).hexdigest() != oid:
            return self.fail(403, "", "Forbidden")
        self.hub.objects[oid] = self.body
        return self.answer(b"")

    def verify(self, repo):
        one = json.loads(self.body)
        if self.writable(repo) is None:
            return None
        if len(self.hub.objects.get(one["oid"], b"")) != one["size"]:
            return self.fail(404, "", "no such object")
        self.hub.verified.add(one["oid"])
        return self.json({})

    def commit(self, repo, revision):
        if (found := self.writable(repo)) is None:
            return None
        lines = [json.loads(line) for line in self.body.splitlines()]
        files, message = dict(found.files), lines[0]["value"]["summary"]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile" and value["oid"] in self.hub.verified:
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self.fail(400, "", f"cannot commit {line['key']} {value['path']}")
        found.commits.append((message, files))
        sha = found.sha()
        return self.json(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"}
        )

    def tree(self, repo, revision, folder):
        if (found := self.find("models", repo)) is None:
            return None
        start = f"{folder}/" if folder else ""
        below = {path: data for path, data in found.files.items() if path.startswith(start)}
        if not below:
            return self.fail(404, "EntryNotFound", f"{folder} does not exist")
        listed = [
            {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
            for path, data in below.items()
        ]
        return self.json(listed, headers={"X-Repo-Commit": found.sha()})

    def resolve(self, repo, revision, path):
        if (found := self.find("models", repo)) is None:
            return None
        if revision not in ("main", found.sha()):
            return self.fail(404, "RevisionNotFound", f"{revision} does not exist")
        commit = {"X-Repo-Commit": found.sha()}
        if path not in found.files:
            missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.json({"error": "Entry not found"}, 404, {**commit, **missing})
        content = found.files[path]
        return self.answer(content, headers={**commit, "ETag": f'"{git_hash(content)}"'})


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


ROUTES = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/validate-yaml", Handler.validate),
    (r"POST /api/repos/create", Handler.create),
    (rf"GET /api/models/{ID}/auth-check/write", Handler.check_write),
    (rf"GET /api/(?P<kind>models|datasets|spaces)/{ID}", Handler.info),
    (rf"GET /api/(?P<kind>models)/{ID}/revision/(?P<revision>[^/]+)", Handler.info),
    (rf"GET /api/models/{ID}/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?", Handler.tree),
    (rf"POST /api/models/{ID}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    (rf"POST /api/models/{ID}/commit/(?P<revision>[^/]+)", Handler.commit),
    (rf"POST /{ID}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /storage/(?P<oid>\w+)", Handler.store),
    (rf"POST /verify/{ID}", Handler.verify),
    (rf"(?:GET|HEAD) /{ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]


class Client:
    """A Python process that uses the server and runs the code of a test.

    >>> Client(hub, home)("1 + 1")
    2
    """

    def __init__(self, hub, home):
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=hub.environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, code, token="hf_writes", **names):
        """Run lines of code and return the value of the last one, as JSON; an error is raised here.

        Args:
            code: lines of Python; a name that one call sets, the next one knows.
            token: value of HF_TOKEN, or None.
            names: JSON values that the lines use.
        """
        self.process.stdin.write(json.dumps({"code": code, "token": token, "names": names}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise ClientError(answer["error"])
        return answer["value"]

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


class ClientError(Exception):
    """An error of the other process: the name of its class, and its text."""


def main():
    import ast

    known, answers = {}, sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        asked = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        os.environ |= {"HF_TOKEN": asked["token"]} if asked["token"] else {}
        known |= asked["names"]
        tree = ast.parse(asked["code"])
        last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
        try:
            exec(compile(tree, "<test>", "exec"), known)
            answer = {"value": eval(compile(last, "<test>", "eval"), known) if last else None}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
