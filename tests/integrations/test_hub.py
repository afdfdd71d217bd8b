"""The hub as a local server plays it: real HTTP, real client, in processes that are told where it is."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys
from quatro.format.errors import QuatroError
from quatro.integrations.loading import load
try:
    model, tokenizer = load(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else None)
    print("loaded", type(model).__name__, len(tokenizer))
except QuatroError as error:
    print(error.exit_code, error)
"""


class Hub(BaseHTTPRequestHandler):
    """Serves one repository, company/model at main; company/gated and company/private refuse."""

    directory: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        if "gated" in path:
            return self.refuse(403, "GatedRepo")
        if "private" in path:
            return self.refuse(401, "RepoNotFound")
        if "broken" in path:
            return self.refuse(500, "")
        if "/company/model" not in path:
            return self.refuse(404, "RepoNotFound")
        if path.startswith("/api/models/company/model"):
            if "/revision/" in path and not path.endswith(("/main", COMMIT)):
                return self.refuse(404, "RevisionNotFound")
            if "/tree/" in path:
                sizes = {file.name: file.stat().st_size for file in self.directory.iterdir()}
                tree = [{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes.items()]
                return self.send(json.dumps(tree).encode(), body)
            files = [{"rfilename": file.name} for file in sorted(self.directory.iterdir())]
            return self.send(json.dumps({"id": "company/model", "sha": COMMIT, "siblings": files}).encode(), body)
        return self.send((self.directory / path.rpartition("/")[2]).read_bytes(), body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{abs(hash(content)):x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tiny_with_tokenizer: Path) -> Iterator[str]:
    handler = type("Serving", (Hub,), {"directory": tiny_with_tokenizer})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def loaded(hub: str, cache: Path, *arguments: str, **environment: str) -> str:
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *arguments], capture_output=True, text=True, env={**os.environ, **settings}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_is_downloaded_once_and_then_found_offline(hub: str, tmp_path: Path) -> None:
    assert loaded(hub, tmp_path, "company/model") == "loaded LlamaForCausalLM 96"
    assert loaded("http://127.0.0.1:9", tmp_path, "company/model", HF_HUB_OFFLINE="1") == "loaded LlamaForCausalLM 96"


@pytest.mark.parametrize(
    ("name", "revision", "letter"),
    [
        ("company/gated", None, "2 the hub does not give company/gated to everybody"),
        ("company/private", None, "2 the hub has no company/private"),
        ("company/absent", None, "2 the hub has no company/absent"),
        ("company/model", "other", "2 the hub has company/model, but no revision 'other'"),
        ("company/broken", None, "1 "),
    ],
)
def test_a_hubs_refusal_is_one_sentence(hub: str, tmp_path: Path, name: str, revision: str | None, letter: str) -> None:
    said = loaded(hub, tmp_path, name, *([revision] if revision else []))
    assert said.startswith(letter)
    assert "\n" not in said


def test_a_hub_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    said = loaded("http://127.0.0.1:9", tmp_path, "company/model")
    assert said.startswith("1 company/model is not in the cache, and the hub cannot be reached")


PLAN = """
import sys
import quatro
print(quatro.plan("company/model", r=2).parameters, sorted({"torch", "transformers"} & sys.modules.keys()))
"""


def test_a_plan_reads_the_configuration_only_and_without_torch(hub: str, tmp_path: Path) -> None:
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", PLAN], capture_output=True, text=True, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["103232", "[]"]
    assert {path.name for path in tmp_path.rglob("snapshots/*/*")} == {"config.json"}
