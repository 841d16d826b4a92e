"""Endpoint, region and credentials for S3, found where users of AWS tools expect them.

The environment alone is enough where it says everything, as on Lambda, and then boto3 is not
imported. Otherwise boto3's own chain is asked: profiles, shared files, single sign-on, containers,
instance metadata; and its configuration for the endpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from excamera_dask.storage.errors import NoCredentials, StorageError
from executors.aws_variables import UNFORESEEN, forget_empty_variables, ignores_endpoints

DEFAULT_REGION = "us-east-1"
_REGION = re.compile(r"[A-Za-z0-9._-]{1,63}")
SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "eusc-": "amazonaws.eu",
}
"""Where AWS's hosts are outside its usual partition, by the beginning of a region's name."""
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
CREDENTIALS_LAST = timedelta(minutes=5)
"""After which the chain is asked again; it renews what expires."""
CONNECT_SECONDS, STALL_SECONDS, ATTEMPT_SECONDS = 3, 8, 60
"""Longest wait for a connection, for the next bytes, and for a whole answer."""


@dataclass(frozen=True)
class Access:
    """How to speak to a store; endpoint is None for AWS's own. StorageError for what no request could be made with."""

    region: str
    endpoint: str | None
    key_id: str | None = None
    secret: str | None = None
    token: str | None = None
    refresh: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        if not _REGION.fullmatch(self.region):
            raise StorageError(
                f"{self.region!r} is no AWS region: set AWS_REGION to one such as eu-west-1"
            )
        if self.endpoint is not None and not is_endpoint(self.endpoint):
            raise StorageError(
                f"the endpoint {self.endpoint!r} is no URL such as http://host:9000: check AWS_ENDPOINT_URL"
            )
        if self.refresh is None and self.key_id is not None:
            self.keys()

    @property
    def is_anonymous(self) -> bool:
        """Requests are not signed: for public buckets."""
        return self.key_id is None and self.refresh is None

    def variables(self) -> dict[str, str]:
        """What says the same in another environment, but for region and keys."""
        store = {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
        if self.endpoint is not None:
            store = {"AWS_ENDPOINT_URL_S3": self.endpoint}
        return store | ({"AWS_SKIP_SIGNATURE": "true"} if self.is_anonymous else {})

    def name(self) -> str:
        """The endpoint in words."""
        return self.endpoint or f"AWS in {self.region}"

    def options(self, bucket: str) -> dict[str, Any]:
        """What obstore's S3Store is made with; whatever is left out, obstore looks for in the environment."""
        address = self._address(bucket)
        options: dict[str, Any] = {
            "region": self.region,
            "endpoint": address,
            "aws_endpoint_url_s3": address,
            "skip_signature": self.is_anonymous,
            "virtual_hosted_style_request": self._is_in_host(bucket),
            "client_options": {
                "allow_http": (self.endpoint or "").startswith("http:"),
                "connect_timeout": f"{CONNECT_SECONDS}s",
                "read_timeout": f"{STALL_SECONDS}s",
                "timeout": f"{ATTEMPT_SECONDS}s",
            },
            "retry_config": {"max_retries": 0},  # `Bucket` repeats, and counts
        }
        if self.refresh is not None:
            options["credential_provider"] = self._credential
        elif self.key_id is not None:
            options |= {"access_key_id": self.key_id, "secret_access_key": self.secret}
            if self.token:
                options["session_token"] = self.token
        return options

    def keys(self) -> tuple[str, str, str | None]:
        """Key, secret and token, as they are now; not of an anonymous access. Raises StorageError."""
        key_id, secret, token = self.key_id, self.secret, self.token
        if self.refresh is not None:
            with _configuration_told():
                frozen = self.refresh()
            key_id, secret, token = frozen.access_key, frozen.secret_key, frozen.token
        assert key_id is not None and secret is not None
        for name, value in (("ACCESS_KEY_ID", key_id), ("SESSION_TOKEN", token or "")):
            if not value.isprintable() or value != value.strip():
                raise StorageError(
                    f"AWS_{name} holds a space or a line break: was it cut out with its line?"
                )
        return key_id, secret, token

    @property
    def address(self) -> str:
        """The URL of the store, AWS's own too."""
        return self.endpoint or f"https://{aws_host(self.region)}"

    def _is_in_host(self, bucket: str) -> bool:
        return self.endpoint is None and "." not in bucket

    def _address(self, bucket: str) -> str:
        if not self._is_in_host(bucket):
            return self.address
        return f"https://{bucket}.{aws_host(self.region)}"

    def _credential(self) -> dict[str, Any]:
        key_id, secret, token = self.keys()
        return {
            "access_key_id": key_id,
            "secret_access_key": secret,
            "token": token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_LAST,
        }

    def client(self) -> Any:
        """A boto3 client of the same store; raises StorageError where AWS's shared files cannot be used."""
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=ATTEMPT_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 6},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if self.endpoint else "auto"},
            signature_version=UNSIGNED if self.is_anonymous else None,
            ignore_configured_endpoint_urls=self.endpoint is None,
        )
        with _configuration_told():
            return boto3.Session().client(
                "s3", region_name=self.region, endpoint_url=self.endpoint, config=config,
                aws_access_key_id=self.key_id, aws_secret_access_key=self.secret, aws_session_token=self.token,
            )  # fmt: skip


def aws_host(region: str) -> str:
    """The name of S3's own host in a region, of whatever partition."""
    found = (suffix for begin, suffix in SUFFIXES.items() if region.startswith(begin))
    return f"s3.{region}.{next(found, 'amazonaws.com')}"


def find_access() -> Access:
    """The access that the environment and AWS's shared files describe; raises NoCredentials, StorageError."""
    forget_empty_variables()
    environment = os.environ
    if _skips_signature():
        return Access(_region() or DEFAULT_REGION, _endpoint())
    if _environment_says_all():
        return Access(
            _region() or DEFAULT_REGION,
            _endpoint(),
            environment["AWS_ACCESS_KEY_ID"],
            environment["AWS_SECRET_ACCESS_KEY"],
            environment.get("AWS_SESSION_TOKEN") or None,
        )
    return _from_boto3()


def environment_key() -> tuple[tuple[str, str], ...]:
    """The part of the environment on which `find_access` depends."""
    return tuple(
        sorted((k, v) for k, v in os.environ.items() if v and (k.startswith("AWS_") or k == "HOME"))
    )


def _environment_says_all() -> bool:
    present = all(map(os.environ.get, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")))
    config = Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    profile = any(map(os.environ.get, ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")))
    return present and not profile and not config.exists()


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _endpoint() -> str | None:
    """What the environment says of the store; raises StorageError for what is no URL."""
    if ignores_endpoints():
        return None
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if value := os.environ.get(name):
            if not is_endpoint(value):
                raise StorageError(
                    f"{name} is {value!r}: give a URL such as http://host:9000 or https://host"
                )
            return value.rstrip("/")
    return None


def is_endpoint(text: str) -> bool:
    """Whether a text is the URL of a server."""
    try:
        parts = urlsplit(text)
        if not text.isprintable() or " " in text:
            return False
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _skips_signature() -> bool:
    """Whether requests are not to be signed; raises StorageError for what is no answer."""
    value = os.environ.get("AWS_SKIP_SIGNATURE", "false")
    if value.lower() not in (*_YES, *_NO):
        raise StorageError(f"AWS_SKIP_SIGNATURE is {value!r}: give true or false")
    return value.lower() in _YES


@contextlib.contextmanager
def _configuration_told() -> Iterator[None]:
    """StorageError, in one line, for what boto3 finds in profiles, shared files and variables, or does not."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, *UNFORESEEN) as error:
        raise StorageError(f"AWS configuration: {' '.join(str(error).split())}") from None


def _from_boto3() -> Access:
    _endpoint()  # says more of what is wrong than boto3
    with _configuration_told():
        import boto3

        session = boto3.Session()
        region = os.environ.get("AWS_REGION") or session.region_name or DEFAULT_REGION
        credentials = session.get_credentials()
        endpoint = str(session.client("s3", region_name=region).meta.endpoint_url)
    if credentials is None:
        raise NoCredentials(
            "no AWS credentials found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(AWS_SKIP_SIGNATURE=true for public buckets)"
        )
    usual = (f"https://{aws_host(region)}", "https://s3.amazonaws.com")
    own = None if endpoint in usual else endpoint
    access = Access(region, own, refresh=credentials.get_frozen_credentials)
    access.keys()  # fails now where it would fail in mid job
    return access
