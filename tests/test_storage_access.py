"""How a store is found: variables, shared files, partitions, proxies; and what is wrong with them, in one line."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import stores
from click.testing import CliRunner
from local_lambda import HANDLER, TESTS, invoke
from stores import Store

from excamera_dask.cli import cli
from excamera_dask.lambda_jobs import (
    credentials_of,
    options_for,
    store_access,
    with_means,
    worker_environment,
)
from excamera_dask.sources import open_source
from excamera_dask.storage import ObjectArchived, StorageError, open_input, open_output
from excamera_dask.storage.access import Access, aws_host, find_access
from excamera_dask.storage.bucket import open_bucket
from executors import loopback
from executors.aws_lambda.deploy import Place
from executors.aws_lambda.deploy.session import AwsRefused, client, open_session
from executors.loopback import VARIABLES


def regions() -> list[str]:
    session = boto3.Session()
    return sorted(
        region
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("s3", partition)
    )


def test_hosts_are_those_of_each_partition(no_aws: None) -> None:
    """botocore, which knows all partitions, is the judge."""
    assert len({region.partition("-")[0] for region in regions()}) > 5
    for region in regions():
        told = boto3.client("s3", region, aws_access_key_id="a", aws_secret_access_key="b")
        usual = told.meta.endpoint_url
        assert usual in (f"https://{aws_host(region)}", "https://s3.amazonaws.com")
        assert (
            Access(region, None).options("films")["endpoint"] == f"https://films.{aws_host(region)}"
        )
        assert Access(region, None).options("fi.lms")["endpoint"] == f"https://{aws_host(region)}"


def test_chinas_host_is_asked_where_the_environment_says_all(
    no_aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "REGION": "cn-north-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    store = open_bucket("films")._store
    assert store.config["endpoint"] == "https://films.s3.cn-north-1.amazonaws.com.cn"


def shared_files(folder: Path, monkeypatch: pytest.MonkeyPatch, config: str = "") -> None:
    (folder / "config").write_text(config)
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id = one\naws_secret_access_key = two\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))


def test_empty_variables_hide_nothing(
    s3: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = s3.put("film", b"abc")
    shared_files(tmp_path, monkeypatch)
    (tmp_path / "config").unlink()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "")
    assert find_access().keys() == ("one", "two", None)
    with open_input(url) as file:
        assert file.read() == b"abc"


OF_OBSTORE = (
    "SKIP_SIGNATURE", "S3_EXPRESS", "DISABLE_TAGGING", "REQUEST_PAYER", "CONDITIONAL_PUT", "CHECKSUM_ALGORITHM",
    "SERVER_SIDE_ENCRYPTION", "UNSIGNED_PAYLOAD", "COPY_IF_NOT_EXISTS",
)  # fmt: skip
OF_BOTO3 = (
    "PROFILE", "DEFAULT_PROFILE", "CA_BUNDLE", "CONFIG_FILE", "SHARED_CREDENTIALS_FILE", "REGION", "DEFAULT_REGION",
    "MAX_ATTEMPTS", "RETRY_MODE", "ENDPOINT_URL_S3", "ENDPOINT_URL_LAMBDA", "ROLE_ARN", "WEB_IDENTITY_TOKEN_FILE",
    "IGNORE_CONFIGURED_ENDPOINT_URLS",
)  # fmt: skip


@pytest.mark.parametrize("keys", ["in variables", "in a file"])
@pytest.mark.parametrize("name", [*OF_OBSTORE, *OF_BOTO3])
def test_an_empty_variable_counts_as_not_set(
    s3: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, keys: str
) -> None:
    url = s3.put("film", b"abc")
    monkeypatch.setenv("HOME", str(tmp_path))
    if keys == "in a file":
        shared_files(tmp_path, monkeypatch)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        (tmp_path / ".aws").symlink_to(tmp_path)
    monkeypatch.setenv(f"AWS_{name}", "")
    with open_input(url) as file:
        assert file.read() == b"abc"
    open_bucket(s3.bucket).access.client().list_objects_v2(Bucket=s3.bucket)
    place = Place(region="us-east-1")
    assert client(open_session(place), "lambda", place).meta.endpoint_url == s3.endpoint


@pytest.mark.parametrize("name", OF_OBSTORE)
def test_a_value_that_a_variable_cannot_have_is_one_line(
    s3: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "COPY_IF_NOT_EXISTS":
        pytest.skip("is of no use here, and not looked at")
    monkeypatch.setenv(f"AWS_{name}", "banana")
    with pytest.raises(StorageError, match=r"AWS_.*banana") as refusal:
        open_input(s3.url("film"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", ["1", "yes", "false", "banana", ""])
def test_endpoints_are_ignored_by_boto3s_word_alone(
    s3: Store, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    assert boto3.client("s3").meta.endpoint_url == s3.endpoint
    access = find_access()
    assert access.endpoint == access.client().meta.endpoint_url == s3.endpoint
    assert Place(region="eu-west-1").endpoint("s3") == s3.endpoint


HOW_TO_IGNORE = ["variables", "shared files", "shared files alone", "anonymous"]


@pytest.mark.parametrize("value", ["true", "TRUE"])
@pytest.mark.parametrize("how", HOW_TO_IGNORE)
def test_endpoints_that_are_to_be_ignored_are(
    no_aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, value: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    if how != "shared files alone":
        monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", value)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    if how.startswith("shared files"):
        ignored = f"ignore_configured_endpoint_urls = {value}\n" if how.endswith("alone") else ""
        config = f"[default]\nendpoint_url = http://127.0.0.1:9\n{ignored}"
        shared_files(tmp_path, monkeypatch, config)
    elif how == "variables":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    else:
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    access = find_access()
    assert access.endpoint is None
    assert access.client().meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
    options = access.options("films")
    assert options["endpoint"] == "https://films.s3.eu-west-1.amazonaws.com"
    assert options["aws_endpoint_url_s3"] == options["endpoint"]
    if how != "shared files alone":
        assert Place(region="eu-west-1").endpoint("s3") is None
    given = with_means({"backend": "local"})["environment"]
    named = {name: given[name] for name in given if "ENDPOINT" in name}
    assert named == {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}


def break_aws(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if what.startswith("endpoint"):
        endpoint = {"endpoint": "localhost:9000", "endpoint of another kind": "ftp://host/",
                    "endpoint with a bad port": "http://host:99999"}[what]  # fmt: skip
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    elif what == "profile":
        monkeypatch.setenv("AWS_PROFILE", "nobodys")
    elif what == "retries":
        shared_files(folder, monkeypatch, "[default]\nregion = eu-west-1\nretry_mode = never\n")
    else:
        broken = {
            "config": b"[default\nregion",
            "binary config": b"\xff\xfe\x00[[[",
            "bare": b"words",
        }
        monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "broken"))
        (folder / "broken").write_bytes(broken[what])


BROKEN = [
    "endpoint", "endpoint of another kind", "endpoint with a bad port", "profile", "config", "binary config", "bare", "retries",
]  # fmt: skip


@pytest.mark.parametrize("signs", ["signed", "anonymous"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_configuration_is_one_line(
    s3: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, signs: str
) -> None:
    """Of reading, of writing, and of the commands that ask Lambda."""
    url = s3.put("film", b"abc")
    if signs == "anonymous":
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    break_aws(what, tmp_path, monkeypatch)
    if signs == "signed" or what.startswith("endpoint"):
        with pytest.raises(StorageError) as refusal:
            open_input(url)
        assert "\n" not in str(refusal.value)
    if what == "retries":
        return
    with pytest.raises(StorageError) as refusal, open_output(s3.url("out")).file as file:
        file.write(bytes(20 << 20))
    assert "\n" not in str(refusal.value) and "not answer" not in str(refusal.value)
    commands = (["info", url], ["lambda", "quotas", "-w", "1"])
    for command in commands if signs == "signed" else ():
        done = CliRunner().invoke(cli, command)
        assert done.exit_code not in (0, 70), done.output
        assert not isinstance(done.exception, (ValueError, KeyError)), done.exception


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_REGION", "eu west"),
        ("AWS_REGION", "eu-west-1\n"),
        ("AWS_REGION", "eu-west-1.example/"),
        ("AWS_ACCESS_KEY_ID", "key\n"),
        ("AWS_ACCESS_KEY_ID", "key\r"),
        ("AWS_SESSION_TOKEN", "two\nlines"),
        ("AWS_ENDPOINT_URL", "http://ho st"),
        ("AWS_ENDPOINT_URL", "http://host\n"),
    ],
)
def test_what_cannot_stand_in_a_request_is_one_line(
    s3: Store, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StorageError) as refusal:
        open_input(s3.url("film"))
    assert str(refusal.value).isprintable() and "not answer" not in str(refusal.value)


@pytest.mark.parametrize("what", ["endpoint", "profile", "config"])
def test_lambdas_side_tells_it_too(
    credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    break_aws(what, tmp_path, monkeypatch)
    place = Place(region="eu-west-1")
    with pytest.raises(AwsRefused) as refusal:
        client(open_session(place), "lambda", place)
    assert "\n" not in str(refusal.value)
    if what == "endpoint":
        assert "AWS_ENDPOINT_URL" in str(refusal.value)


NO_CREDENTIALS = {
    "no such program": "credential_process = /no/such/program\n",
    "a program that fails": "credential_process = false\n",
    "a program that says nothing": "credential_process = true\n",
    "a program that says something else": "credential_process = echo [1]\n",
    "no token": "role_arn = arn:aws:iam::123456789012:role/x\nweb_identity_token_file = /no/token\n",
    "no sign-in": (
        "sso_start_url = https://x.example/start\nsso_region = us-east-1\nsso_account_id = 1\nsso_role_name = r\n"
    ),
    "a metadata server elsewhere": "",
}


@pytest.fixture(params=NO_CREDENTIALS)
def no_credentials(
    request: pytest.FixtureRequest, no_aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Something is to tell credentials, and cannot."""
    shared_files(tmp_path, monkeypatch, f"[default]\n{NO_CREDENTIALS[request.param]}")
    (tmp_path / "credentials").unlink()
    if request.param == "a metadata server elsewhere":
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://evil.example/x")


def test_credentials_that_cannot_be_had_are_one_line(no_credentials: None) -> None:
    with pytest.raises(StorageError, match="AWS configuration: ") as refusal:
        open_input("s3://films/film")
    assert "\n" not in str(refusal.value)
    with pytest.raises(AwsRefused) as refused:
        open_session(Place(region="eu-west-1"))
    assert "\n" not in str(refused.value) and "AWS_ENDPOINT_URL" not in str(refused.value)
    assert store_access() is None
    assert with_means({"backend": "local"})["backend_options"]["credentials"] is None


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_a_profile_that_is_not_there_is_named(
    credentials: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "nobodys")
    with pytest.raises(AwsRefused, match="no AWS profile nobodys"):
        open_session(Place(region="eu-west-1"))
    with pytest.raises(StorageError, match="nobodys"):
        find_access()


class _Odd(http.server.BaseHTTPRequestHandler):
    """A store that knows no ranges, but for objects that are archived."""

    def do_GET(self) -> None:
        body = bytes(100_000)
        archived = (
            b"<Error><Code>InvalidObjectState</Code><Message>not for its class</Message></Error>"
        )
        self.send_response(403 if "archived" in self.path else 200)
        body = archived if "archived" in self.path else body
        self.send_header("ETag", '"abc"')
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def odd(s3: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield "s3://films/"
        server.shutdown()


@pytest.mark.timeout(20)
def test_an_archived_object_is_called_so(odd: str) -> None:
    with pytest.raises(ObjectArchived, match="restore it first"):
        open_source(odd + "archived.mp4")


@pytest.mark.timeout(20)
def test_a_store_without_ranges_is_called_so(odd: str) -> None:
    with pytest.raises(StorageError, match="no ranges"):
        open_source(odd + "film.mp4")


# Proxies


@pytest.mark.parametrize("names", [("HTTP_PROXY", "HTTPS_PROXY"), ("http_proxy",), ("ALL_PROXY",)])
def test_loopback_is_not_asked_for_through_a_proxy(
    s3: Store, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    for name in names:
        monkeypatch.setenv(name, f"http://127.0.0.1:{stores.free_port()}")
    monkeypatch.setenv("NO_PROXY", "internal.example")
    monkeypatch.setenv("no_proxy", "")
    url = s3.put("film", b"abc")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")  # no bucket is known under this name yet
    with open_input(url) as file:
        assert file.read() == b"abc"
    with open_output(s3.url("out")).file as file:
        file.write(b"x")
    open_bucket(s3.bucket).access.client().list_objects_v2(Bucket=s3.bucket)
    place = Place(region="us-east-1", endpoint_url=s3.endpoint)
    client(open_session(place), "s3", place).list_buckets()
    assert worker_environment()["NO_PROXY"].split(",")[0] == "internal.example"


def names_of_here() -> list[str]:
    return ["127.0.0.1", "localhost", "127.0.0.2", "127.1.2.3", "0.0.0.0", socket.gethostname()]


@pytest.mark.parametrize("host", names_of_here())
def test_no_name_of_this_machine_is_asked_for_through_a_proxy(
    s3: Store, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{stores.free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), _Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://{host}:{server.server_port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(StorageError, match="no ranges"):
            open_input("s3://films/film")
        ours = open_bucket("films").access.client()
        assert ours.get_object(Bucket="films", Key="film")["Body"].read() == bytes(100_000)
        place = Place(region="us-east-1", endpoint_url=endpoint)
        theirs = client(open_session(place), "s3", place)
        assert theirs.get_object(Bucket="films", Key="film")["Body"].read() == bytes(100_000)
        server.shutdown()


def test_names_in_the_file_of_hosts_are_this_machines_where_their_address_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text(
        "# 127.0.0.1 nobody\n127.0.1.1 box.example box # ours\n203.0.113.1 far\n\nfe80::zz odd\n127.0.0.1\n"
        + "".join(
            f"0.0.0.0 advertiser{n}.example\n127.0.0.1 tracker{n}.example\n" for n in range(10_000)
        )
    )
    monkeypatch.setattr(loopback, "_NAMES", tmp_path / "hosts")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "internal.example")
    monkeypatch.setenv("NO_PROXY", "")
    loopback.reach_loopback_directly(
        "http://203.0.113.2:9", None, "http://[bad", "http://127.3.3.3"
    )
    told = os.environ["NO_PROXY"].split(",")
    assert told[0] == "internal.example" and {"box.example", "box", "127.3.3.3"} < set(told)
    assert not {"nobody", "#", "far", "odd", "ours", "203.0.113.2", "advertiser0.example"} & set(
        told
    )
    subprocess.run(["true"], check=True)  # it takes an environment of 128 KiB a variable at most


# What workers on this machine get


def told_by_a_file(how: str, folder: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Region, endpoint and keys in a profile, or from a program."""
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION"):
        monkeypatch.delenv(f"AWS_{name}")
    there = f"region = eu-central-1\nendpoint_url = {endpoint}\n"
    if how == "a profile":
        shared_files(folder, monkeypatch, f"[profile films]\n{there}")
        (folder / "credentials").write_text(
            "[films]\naws_access_key_id = tester\naws_secret_access_key = secret\n"
        )
        monkeypatch.setenv("AWS_PROFILE", "films")
    else:
        keys = '{"Version": 1, "AccessKeyId": "tester", "SecretAccessKey": "secret"}'
        shared_files(folder, monkeypatch, f"[default]\n{there}credential_process = echo '{keys}'\n")
        (folder / "credentials").unlink()


def read_in_a_function(url: str) -> str:
    """What a function on this machine reads of an object, with what it is given for a job."""
    pytest.importorskip("awslambdaric")
    from executors.local_lambda import LocalLambda

    options = with_means({"backend": "local"})
    with LocalLambda(**options["backend_options"]) as local:
        local.create_function(
            "read", HANDLER, code=TESTS, environment=options["environment"], timeout=30
        )
        return str(invoke(local.client(), "read", "read_object", url=url))


@pytest.mark.parametrize("how", ["AWS_REGION", "AWS_DEFAULT_REGION", "a profile", "a program"])
def test_local_workers_ask_in_the_region_that_the_user_asks_in(
    s3: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Of a store that is strict, and does not tell where else to ask."""
    url = s3.put("film", b"abc")
    with stores.Proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        if how.startswith("AWS_"):
            monkeypatch.delenv("AWS_REGION")
            monkeypatch.setenv(how, "eu-central-1")
        else:
            told_by_a_file(how, tmp_path, proxy.endpoint, monkeypatch)
        elsewhere = stores.s3_error(400, "AuthorizationHeaderMalformed")
        proxy.fault = lambda request: (
            None if "Credential=tester/" in request.authorization
            and "/eu-central-1/s3/" in request.authorization else elsewhere
        )  # fmt: skip
        assert open_input(url).read() == b"abc"
        assert read_in_a_function(url) == "abc"


def test_a_region_that_is_chosen_for_functions_stays(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "cn-north-1")

    def region(**options: object) -> str:
        return str(with_means({"backend": "local", **options})["backend_options"]["region"])

    assert region() == "cn-north-1"
    assert region(region="eu-west-1") == "eu-west-1"
    assert region(region="eu-west-1", backend_options={"region": "eu-west-2"}) == "eu-west-2"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_local_workers_reach_a_store_through_the_users_proxy(
    s3: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    url = s3.put("film", b"abc")
    for other in VARIABLES:
        monkeypatch.setenv(other, "")
        monkeypatch.delenv(other)
    with stores.Proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example:9000")
        monkeypatch.setenv(name, proxy.endpoint)
        assert open_input(url).read() == b"abc"
        assert read_in_a_function(url) == "abc"


def test_workers_that_read_files_need_no_credentials(
    no_aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared_files(tmp_path, monkeypatch, "[default]\ncredential_process = touch asked\n")
    (tmp_path / "credentials").unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.y4m").write_bytes(b"YUV4MPEG2 W16 H16 F25:1\nFRAME\n" + bytes(384))
    options = options_for({"backend": "local"}, open_source(tmp_path / "film.y4m"))
    assert options["backend_options"]["credentials"] is None
    assert not (tmp_path / "asked").exists()


def test_local_workers_sign_as_the_user_does(
    s3: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    local = with_means({"backend": "local"})["backend_options"]
    assert local["credentials"] == {
        "access_key": "tester",
        "secret_key": "secret",
        "token": "token",
    }
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL",
    ):
        monkeypatch.delenv(name)
    shared_files(tmp_path, monkeypatch, f"[default]\nendpoint_url = {s3.endpoint}\n")
    options = with_means({"backend": "local"})
    assert options["backend_options"]["credentials"]["access_key"] == "one"
    assert options["environment"]["AWS_ENDPOINT_URL_S3"] == s3.endpoint
    given = {"backend": "local", "backend_options": {"credentials": {"access_key": "mine"}}}
    assert with_means(given)["backend_options"]["credentials"] == {"access_key": "mine"}
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    options = with_means({"backend": "local"})
    assert options["backend_options"]["credentials"] is None
    assert options["environment"]["AWS_SKIP_SIGNATURE"] == "true"


@pytest.mark.parametrize("how", ["keys", "anonymous"])
def test_a_function_here_reads_from_a_store_that_checks_keys(
    s3: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    url = s3.put("film", b"abc")
    s3.client.put_object_acl(Bucket=s3.bucket, Key="film", ACL="public-read")
    if how == "anonymous":
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with stores.Proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        wanted = "Credential=tester/" if how == "keys" else ""

        def check(request: stores.Request) -> stores.Fault | None:
            known = wanted in request.authorization and bool(wanted) == bool(request.authorization)
            return None if known else stores.s3_error(403, "InvalidAccessKeyId")

        proxy.fault = check
        assert read_in_a_function(url) == "abc"


def test_nobody_is_asked_for_credentials_that_a_job_may_not_need(
    no_aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_access() is None and credentials_of(None) is None
    monkeypatch.setenv("AWS_PROFILE", "nobodys")
    assert store_access() is None
