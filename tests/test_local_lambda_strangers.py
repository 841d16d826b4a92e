"""Who has not started a local Lambda cannot use it, nor hear what its environments are told, nor write where its code lies."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from local_lambda import HANDLER, TESTS, descendants, invoke, require_runtime, send, wait_for

require_runtime()

from executors.local_lambda import LocalLambda  # noqa: E402
from executors.local_lambda.keys import Keys  # noqa: E402

FUNCTIONS = "/2015-03-31/functions"
ROLE = "arn:aws:iam::123456789012:role/local"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLambda]:
    with LocalLambda(directory=tmp_path_factory.mktemp("server")) as local:
        local.create_function("probe", HANDLER, code=TESTS, memory=512, timeout=60)
        yield local


def signed(
    server: LocalLambda,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    keys: Keys | None = None,
    at: datetime | None = None,
) -> dict[str, str]:
    """The headers of a request that is as it should be, by botocore itself, at another time if need be."""
    request = AWSRequest(method, server.endpoint_url + path, headers or {}, data=body)
    signer = SigV4Auth(Credentials(*(keys or server.keys)), "lambda", "us-east-1")
    with patch("botocore.auth.get_current_datetime", lambda: at or datetime.now(UTC)):
        signer.add_auth(request)
    return {**request.headers, "Host": urlsplit(server.endpoint_url).netloc}


def ask(
    server: LocalLambda, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.endpoint_url).netloc, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


PATHS = [
    ("GET", FUNCTIONS),
    ("POST", f"{FUNCTIONS}/probe/invocations"),
    ("POST", FUNCTIONS),
    ("POST", "/"),
    ("GET", "/local/stats"),
    ("PUT", "/local/faults"),
    ("GET", "/nothing/here"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_nothing_is_answered_without_a_signature(
    server: LocalLambda, method: str, path: str
) -> None:
    status, body = ask(server, method, path, {}, b"{}")
    assert status == 403
    assert json.loads(body)["__type"] == "MissingAuthenticationTokenException"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "null"},
        {"Host": "attacker.example"},
        {"Host": "127.0.0.1.attacker.example"},
        {"Host": "[nonsense"},
        {"Host": ""},
    ],
)
def test_web_pages_and_other_names_are_refused_whatever_they_know(
    server: LocalLambda, headers: dict[str, str]
) -> None:
    whole = signed(server, "GET", FUNCTIONS)
    assert ask(server, "GET", FUNCTIONS, whole)[0] == 200
    status, body = ask(server, "GET", FUNCTIONS, {**whole, **headers})
    assert status == 403 and json.loads(body)["__type"] == "AccessDeniedException"


def test_what_was_signed_cannot_be_changed(server: LocalLambda) -> None:
    path, body = f"{FUNCTIONS}/probe/invocations", b'{"do": "echo"}'
    whole = signed(server, "POST", path, body)
    assert ask(server, "POST", path, whole, body)[0] == 200
    altered = {
        "another body": ("POST", path, whole, b'{"do": "exit"}'),
        "another path": ("POST", f"{FUNCTIONS}/other/invocations", whole, body),
        "another method": ("PUT", path, whole, body),
        "another time": ("POST", path, {**whole, "X-Amz-Date": "20200101T000000Z"}, body),
        "no time": ("POST", path, {k: v for k, v in whole.items() if k != "X-Amz-Date"}, body),
        "host unsigned": (
            "POST",
            path,
            {**whole, "Authorization": whole["Authorization"].replace("host;", "")},
            body,
        ),
    }
    for what, request in altered.items():
        assert ask(server, *request)[0] == 403, what


@pytest.mark.parametrize("minutes", [-60 * 24, -16, 16])
def test_a_signature_of_another_time_is_refused(server: LocalLambda, minutes: int) -> None:
    whole = signed(server, "GET", FUNCTIONS, at=datetime.now(UTC) + timedelta(minutes=minutes))
    status, body = ask(server, "GET", FUNCTIONS, whole)
    assert status == 403 and b"Signature expired" in body


@pytest.mark.parametrize("minutes", [-14, 0, 14])
def test_clocks_may_differ_a_little(server: LocalLambda, minutes: int) -> None:
    whole = signed(server, "GET", FUNCTIONS, at=datetime.now(UTC) + timedelta(minutes=minutes))
    assert ask(server, "GET", FUNCTIONS, whole)[0] == 200


@pytest.mark.parametrize(
    "said", ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "0" * 64]
)
def test_a_body_is_signed_whatever_the_headers_say(server: LocalLambda, said: str) -> None:
    path, body = f"{FUNCTIONS}/probe/invocations", b'{"do": "echo"}'
    for hash_said, status in ((said, 403), (sha256(body).hexdigest(), 200)):
        whole = signed(server, "POST", path, body, {"X-Amz-Content-SHA256": hash_said})
        assert ask(server, "POST", path, whole, body)[0] == status


@pytest.mark.parametrize("key", ["\xe9", "LOCAL\xff", "\xb2"])
def test_a_key_of_odd_letters_is_another_key(server: LocalLambda, key: str) -> None:
    whole = signed(server, "GET", FUNCTIONS)
    odd = whole["Authorization"].replace(server.keys.access_key, key)
    status, body = ask(server, "GET", FUNCTIONS, {**whole, "Authorization": odd})
    assert status == 403 and json.loads(body)["__type"] == "UnrecognizedClientException"


def strange_headers(server: LocalLambda) -> dict[str, dict[str, str]]:
    whole = signed(server, "POST", FUNCTIONS)
    return {
        "nothing": {},
        "a web page": {**whole, "Origin": "http://attacker.example"},
        "another host": {**whole, "Host": "attacker.example"},
        "another key": signed(server, "POST", FUNCTIONS, keys=Keys.new()),
        "another time": {**whole, "X-Amz-Date": "20200101T000000Z"},
    }


def held(server: LocalLambda) -> int:
    """Bytes of memory that the server has."""
    port = urlsplit(server.endpoint_url).port
    (owner,) = {
        each.pid
        for each in psutil.net_connections("tcp4")
        if each.laddr.port == port and each.status == psutil.CONN_LISTEN
    }
    return psutil.Process(owner).memory_info().rss


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "what", ["nothing", "a web page", "another host", "another key", "another time"]
)
def test_nothing_is_kept_of_what_a_stranger_sends(
    server: LocalLambda, what: str, chunked: bool
) -> None:
    headers = strange_headers(server)[what]
    before = held(server)
    size, part = 40 << 20, bytes(1 << 20)
    connection = http.client.HTTPConnection(urlsplit(server.endpoint_url).netloc, timeout=60)
    connection.putrequest("POST", FUNCTIONS, skip_host="Host" in headers)
    for name, value in headers.items():
        if name.lower() != "content-length":
            connection.putheader(name, value)
    if chunked:
        connection.putheader("Transfer-Encoding", "chunked")
    else:
        connection.putheader("Content-Length", str(size))
    connection.endheaders()
    for _ in range(size // len(part) - 1):
        connection.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
    assert held(server) - before < 10 << 20
    connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(part), part) if chunked else part)
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "headers", "limit"),
    [
        ("POST", "/probe/invocations", {}, 6 << 20),
        ("POST", "/probe/invocations", {"X-Amz-Invocation-Type": "Event"}, 1 << 20),
        ("PUT", "/probe/configuration", {}, 6 << 20),
        ("POST", "", {}, 70_167_211),
        ("PUT", "/probe/code", {}, 70_167_211),
    ],
)
def test_a_body_has_the_size_that_lambda_allows(
    server: LocalLambda, method: str, path: str, headers: dict[str, str], limit: int
) -> None:
    def answer(size: int) -> int:
        body = b" " * size
        whole = {**signed(server, method, FUNCTIONS + path, body), **headers}
        return ask(server, method, FUNCTIONS + path, whole, body)[0]

    assert answer(limit) != 413 and answer(limit + 1) == 413


@pytest.mark.parametrize("keys", [("local", "local"), ("a", "b"), ("LOCALLAMBDA", "local")])
def test_other_keys_are_refused(server: LocalLambda, keys: tuple[str, str]) -> None:
    for key, secret in (keys, (server.keys.access_key, keys[1])):
        client = boto3.client(
            "lambda", "us-east-1", endpoint_url=server.endpoint_url,
            aws_access_key_id=key, aws_secret_access_key=secret,
        )  # fmt: skip
        with pytest.raises(ClientError, match=r"token|signature"):
            client.list_functions()


def test_boto3_with_the_keys_is_served(server: LocalLambda) -> None:
    """Names that have to be spelled otherwise in a URL, queries, an empty and a large body."""
    client = server.client()
    arn = client.get_function(FunctionName="probe")["Configuration"]["FunctionArn"]
    assert invoke(client, arn)["event"]["do"] == "echo"
    assert len(invoke(client, "probe", text="x" * 200_000)["event"]["text"]) == 200_000
    client.tag_resource(Resource=arn, Tags={"a b/ü": "c"})
    client.untag_resource(Resource=arn, TagKeys=["a b/ü", "d&e=f"])
    assert client.list_tags(Resource=arn)["Tags"] == {}
    assert client.list_functions(MaxItems=1)["Functions"]


def test_each_server_has_keys_of_its_own_that_no_argument_shows(server: LocalLambda) -> None:
    keys = {LocalLambda().keys for _ in range(3)}
    assert len(keys) == 3
    for process in descendants(os.getpid()):
        shown = Path(f"/proc/{process}/cmdline").read_bytes()
        assert server.keys.secret_key.encode() not in shown


LISTEN = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=10)
try:
    connection.request("GET", "/2018-06-01/runtime/invocation/next")
    print(connection.getresponse().read().decode())
except Exception as error:
    print("refused", type(error).__name__)
"""


def test_an_event_is_heard_by_its_environment_alone(server: LocalLambda) -> None:
    """A process of this user, and another environment, ask the Runtime API for the next event; nobody's answer is taken."""
    client = server.client()
    assert invoke(client, "probe")
    (port,) = {each["runtime_api_port"] for each in server.environments()}
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(port)], stdout=subprocess.PIPE, text=True
    ) as stranger:
        assert stranger.stdout is not None
        told = stranger.stdout.read()
    assert told.startswith("refused")
    send(client, "probe", "sleep", seconds=3, secret="of the client")
    current = wait_for(
        lambda: next((e for e in server.environments() if e["request_id"]), None), "an invocation"
    )
    path = f"/2018-06-01/runtime/invocation/{current['request_id']}/response"
    connection = http.client.HTTPConnection("127.0.0.1", current["runtime_api_port"], timeout=10)
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.request("POST", path, b'"forged"')
        connection.getresponse()
    assert invoke(client, "probe", "echo")["event"]["do"] == "echo"


def zipped(*members: tuple[str, int]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, mode in members:
            item = zipfile.ZipInfo(name)
            item.external_attr = mode << 16
            archive.writestr(item, b"print('unpacked')\n")
    return data.getvalue()


@pytest.mark.parametrize(
    "name", ["../{}", "a/../../{}", "../../{}", "/{}", "..\\{}", "{folder}/{}", "..", "."]
)
def test_a_zip_file_stays_in_its_folder(server: LocalLambda, tmp_path: Path, name: str) -> None:
    """Nothing is written, nothing is made readable or writable, outside; and no half of it is left."""
    assert server.directory is not None
    victims = [
        folder / "victim.txt"
        for folder in (server.directory, server.directory / "code", tmp_path)
        if folder.is_dir()
    ]
    for victim in victims:
        victim.write_text("precious")
        victim.chmod(0o600)
    member = name.format("victim.txt", folder=tmp_path)
    code = zipped(("module.py", 0o644), (member, 0o777))
    before = sorted(server.directory.rglob("*"))
    with pytest.raises(ClientError, match="Could not unzip"):
        server.client().create_function(
            FunctionName="zipped", Role=ROLE, Runtime="python3.11", Handler="module.handle",
            Code={"ZipFile": code},
        )  # fmt: skip
    assert all(victim.read_text() == "precious" for victim in victims)
    assert {victim.stat().st_mode & 0o777 for victim in victims} <= {0o600}
    assert [path for path in sorted(server.directory.rglob("*")) if path not in before] in (
        [],
        [server.directory / "code"],
    )


def test_a_zip_file_with_links_and_odd_modes_is_unpacked_as_files(server: LocalLambda) -> None:
    code = zipped(("module.py", 0o100644), ("link.py", 0o120777), ("folder/x.sh", 0o100755))
    client = server.client()
    made: Any = client.create_function(
        FunctionName="odd", Role=ROLE, Runtime="python3.11", Handler="module.handle",
        Code={"ZipFile": code},
    )  # fmt: skip
    assert made["CodeSize"] == len(code)
    where = client.get_function(FunctionName="odd")["Code"]["Location"].removeprefix("file://")
    assert not os.path.islink(f"{where}/link.py")
    assert os.stat(f"{where}/folder/x.sh").st_mode & 0o777 == 0o755
    assert base64.b64decode(made["CodeSha256"])


def test_a_zip_file_that_grows_too_large_is_refused(server: LocalLambda) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("zeros", b"0")
        archive.filelist[0].file_size = 262_144_000
    with pytest.raises(ClientError, match="Unzipped size"):
        server.client().create_function(
            FunctionName="bomb", Role=ROLE, Runtime="python3.11", Handler="a.b",
            Code={"ZipFile": data.getvalue()},
        )  # fmt: skip


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_no_proxy_is_asked_for_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    for other in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(other, "")
    with LocalLambda() as local:
        local.create_function("probe", HANDLER, code=TESTS, memory=512)
        assert invoke(local.client(), "probe")["event"]["do"] == "echo"
        assert local.stats() and local.logs("probe")
