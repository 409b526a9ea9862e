"""The live view: what it gives out and to whom, what it says of a run, and that training doesn't notice it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import denseteacher
from conftest import TINY
from denseteacher import api
from denseteacher.errors import InputError
from denseteacher.report.local_server import is_own_name
from denseteacher.runs import monitor as monitor_module
from denseteacher.runs.folder import RunFolder
from support.finished_runs import SHORT, trained

SECRET = "a secret outside of the run"


@pytest.fixture(scope="module")
def run(tmp_path_factory, coco, unlabeled):
    """A finished run beside a file that nobody may see, with links to it."""
    folder = trained(tmp_path_factory.mktemp("monitored") / "run", coco, unlabeled)
    (folder.parent / "secret.txt").write_text(SECRET)
    (folder / "previews" / "step_999999.jpg").symlink_to(folder.parent / "secret.txt")
    (folder / "previews" / "step_000999.jpg").mkdir()
    (folder / "previews" / "mine.jpg").write_text(SECRET)
    os.mkfifo(folder / "previews" / "step_000998.jpg")
    return folder


@pytest.fixture(scope="module")
def served(run):
    with api.monitor(run) as found:
        yield found


def ask(served, path="/", method="GET", **headers):
    """Status, headers and body of an answer."""
    host, port = served.address.removeprefix("http://").rstrip("/").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def ask_raw(served, request):
    """All bytes that come for bytes that need not be HTTP."""
    host, port = served.address.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def state(served):
    return json.loads(ask(served, "/state.json")[2])


def test_it_listens_on_this_machine_alone(served):
    assert served.address.startswith("http://127.0.0.1:")
    assert served.warning is None


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/monitor.css", "text/css"),
        ("/monitor.js", "text/javascript"),
        ("/state.json", "application/json"),
        ("/report.html", "text/html"),
        ("/previews/labeled_weak.jpg?1", "image/jpeg"),
        ("/previews/step_000004.jpg", "image/jpeg"),
    ],
)
def test_what_is_served(served, path, kind):
    status, headers, body = ask(served, path)
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind)
    assert body
    assert int(headers["Content-Length"]) == len(body)
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    again, _, nothing = ask(served, path, If_None_Match=headers["ETag"])
    assert (again, nothing) == (304, b"")
    head, described, nothing = ask(served, path, method="HEAD")
    assert (head, nothing) == (200, b"")
    assert described["Content-Length"] == headers["Content-Length"]


@pytest.mark.parametrize("path", ["/", "/monitor.js", "/page.css", "/monitor.css"])
def test_the_page_names_no_address(served, path):
    text = ask(served, path)[2].decode().replace("http://www.w3.org/2000/svg", "")
    for outside in ("http:", "https:", 'src="/', 'href="/', "url("):
        assert outside not in text


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/../../../../../../etc/passwd",
        "/%2e%2e/secret.txt",
        "/previews/%2e%2e/%2e%2e/secret.txt",
        "/previews/..%2f..%2fsecret.txt",
        "/previews/../recipe.yaml",
        "//etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/state.json",
        "/recipe.yaml",
        "/metrics.jsonl",
        "/detector.safetensors",
        "/checkpoints",
        "/previews",
        "/previews/",
        "/previews/mine.jpg",
        "/previews/step_999999.jpg",
        "/previews/step_000998.jpg",
        "/previews/step_000999.jpg",
        "/previews/step_000004.jpg/",
        "/previews/step_000004.jpg%00",
        "/monitor.py",
        "/page.py",
        "/state.json/",
        "*",
    ],
)
def test_nothing_else_is(served, path):
    status, _, body = ask(served, path)
    assert status in (400, 404)
    assert SECRET.encode() not in body
    assert b"root:" not in body


def test_links_in_a_run_are_not_followed(run, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    for name in ("previews", "report.html", "recipe.yaml", "metrics.jsonl", "baseline"):
        (folder / name).symlink_to(run / name if name != "baseline" else run)
    with api.monitor(folder) as served:
        assert ask(served, "/report.html")[0] == 404
        assert ask(served, "/previews/labeled_weak.jpg")[0] == 404
        found = state(served)
    assert [text.partition(":")[0] for text in found["faults"]] == [
        "the recipe can't be read",
        "the numbers can't be read",
    ]
    assert found["pictures"] == []
    assert found["report"] is None
    assert not any(found["charts"].values())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_it_can_only_be_read(served, method):
    status, headers, _ = ask(served, "/state.json", method=method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:9000", 200),  # the other end of a tunnel
        ("[::1]:9000", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.0.7", 403),
        ("user@localhost", 403),
        ("localhost/x", 403),
        ("localhost:x", 403),
        ("", 403),
        (None, 403),
    ],
)
def test_another_host_is_refused(served, host, status):
    """DNS rebinding: a page elsewhere has its own name point at this machine, and asks by that name."""
    found, _, body = ask(served, "/state.json", Host=host)
    assert found == status
    assert (b"charts" in body) == (status == 200)


def test_two_hosts_are_refused(served):
    answer = ask_raw(served, b"GET /state.json HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    assert answer.split()[1] == b"403"


@pytest.mark.parametrize(
    ("host", "asked", "own"),
    [
        ("0.0.0.0", "192.168.0.7:80", True),
        ("0.0.0.0", "machine.example", False),
        ("machine.example", "machine.example:8000", True),
        ("machine.example", "other.example", False),
        ("::", "[fd00::1]:8000", True),
        ("127.0.0.1", "10.0.0.1", False),
    ],
)
def test_where_it_listens_decides_who_may_ask(host, asked, own):
    assert is_own_name(asked, host) == own


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: 1\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /<script>alert(1)</script> /x HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    ],
)
def test_requests_that_are_none_are_refused(served, request_, status):
    answer = ask_raw(served, request_)
    assert status in answer.split()[:2] or answer.startswith(status)  # without a version the status stands alone
    assert b"<script>" not in answer
    assert ask(served)[0] == 200  # and it goes on


def test_a_client_that_says_nothing_holds_up_nobody(served):
    host, port = served.address.removeprefix("http://").rstrip("/").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(5)]
    try:
        assert ask(served)[0] == 200
    finally:
        for one in silent:
            one.close()


def test_what_it_says_of_a_finished_run(run, served):
    found = state(served)
    assert found["title"] == "custom: dense_teacher_plus"
    assert found["status"] == "Finished: step 8 of 8."
    assert found["burn_in"] == 2
    assert found["report"] == "report.html"
    assert found["faults"] == []
    titles = [chart["title"] for chart in found["charts"]["training"]]
    assert titles == ["AP on the validation images", "Losses on labeled images", "Losses on unlabeled images"]
    rows = RunFolder(run).rows()
    ap = found["charts"]["training"][0]["lines"][0]
    expected = [[row["step"], row["teacher/AP"]] for row in rows if "teacher/AP" in row]
    assert ap["name"] == "teacher"
    assert ap["points"] == [[step, pytest.approx(value, rel=1e-4)] for step, value in expected]
    assert [name.partition("?")[0] for name in found["pictures"]] == [
        *(f"previews/{name}.jpg" for name in ("labeled_strong", "labeled_weak", "unlabeled_strong", "unlabeled_weak")),
        "previews/step_000004.jpg",
        "previews/step_000008.jpg",
    ]
    assert found["health"]


def test_a_run_may_begin_and_grow_while_it_is_watched(run, tmp_path):
    folder = tmp_path / "later"
    with api.monitor(folder) as served:
        assert state(served)["status"] == f"There is not a run in {folder} yet."
        folder.mkdir()
        (folder / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
        assert state(served)["status"] == "Not training: step 0 of 8. It goes on with --resume."
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        for count in (2, 5):
            (folder / "metrics.jsonl").write_bytes(b"".join(lines[:count]) + lines[count][:-5])  # a line half written
            shown = state(served)["charts"]["training"][0]["lines"][0]["points"]
            steps = [json.loads(line)["step"] for line in lines[:count]]
            assert shown[-1][0] == steps[-1]
        lock = RunFolder(folder).claim()
        assert state(served)["status"].startswith("Training: step")
        lock.release()
        (folder / "failure.txt").write_text("Traceback")
        assert state(served)["status"].startswith("Ended by an error after step")
        (folder / "metrics.jsonl").write_text("no rows\nat all\n")
        assert "the numbers can't be read" in state(served)["faults"][0]


def test_texts_stay_texts(run, tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    recipe = (run / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe + "\nno_such_key: 1\n")
    with api.monitor(folder) as served:
        _, headers, body = ask(served, "/state.json")
        page = ask(served)[2]
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["title"] == folder.name
    assert b"onerror" not in page  # the page is the same for all runs, and makes text nodes of what it gets
    assert "innerHTML" not in Path(denseteacher.__file__).with_name("report").joinpath("monitor.js").read_text()


def test_another_address_comes_with_a_warning(run):
    with api.monitor(run, host="0.0.0.0") as served:
        assert "without a password" in served.warning
        assert f"ssh -L {served.server.address.rpartition(':')[2][:-1]}:127.0.0.1" in served.warning


def test_what_can_not_be_served_is_said(run, served):
    port = int(served.address.rpartition(":")[2][:-1])
    for arguments, sentence in (
        ({"port": port}, "choose another --port"),
        ({"port": 70_000}, "not a port"),
        ({"host": "no host"}, "not an address of this machine"),
    ):
        with pytest.raises(InputError, match=sentence):
            api.monitor(run, **arguments)
    with pytest.raises(InputError, match="is a file"):
        api.monitor(run / "detector.safetensors")


def test_the_command_ends_with_an_interrupt(run):
    command = [sys.executable, "-m", "denseteacher", "monitor", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        address = line.split()[1]
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", "/state.json")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_command_says_what_is_wrong(call, run):
    code, _, err = call("monitor", run / "recipe.yaml")
    assert code == 2
    assert err == f"denseteacher: {run / 'recipe.yaml'} is a file: give the folder of a run\n"


@pytest.mark.parametrize("fails", [False, True])
def test_training_does_not_notice(run, coco, unlabeled, tmp_path, monkeypatch, call, fails):
    """The same numbers with a monitor that is asked all the time, and with one that can't begin."""
    seen, original = [], monitor_module.monitor_run

    def watched(folder, **options):
        if fails:
            raise OSError("not a port is left")
        served = original(folder, **options)
        seen.append(state(served))
        return served

    monkeypatch.setattr(monitor_module, "monitor_run", watched)
    overrides = [part for one in [*TINY, *SHORT] for part in ("--set", one)]
    data = ["--labeled", coco, "--unlabeled", unlabeled, "--val", coco]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        code, _, err = call("train", "custom", *data, "--output", tmp_path / "run", *overrides, "--monitor")
    assert code == 0, err
    own = [str(one.message) for one in caught if "no monitor" in str(one.message)]
    assert own == (["there is no monitor: not a port is left"] if fails else [])
    assert ("monitor: http://127.0.0.1:" in err) != fails
    assert fails or seen[0]["status"] == "Training has not come to its first numbers yet."
    changing = ("step_seconds", "images_per_second", "mfu", "data_wait")
    rows = [
        [{name: value for name, value in row.items() if name not in changing} for row in RunFolder(one).rows()]
        for one in (run, tmp_path / "run")
    ]
    assert rows[0] == rows[1]
    if not fails:
        address = next(line for line in err.splitlines() if "monitor: http" in line).split()[1]
        port = int(address.rpartition(":")[2].rstrip("/"))
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=5)
