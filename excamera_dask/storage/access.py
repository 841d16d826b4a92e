"""Endpoint, region and credentials for S3, found where users of AWS tools expect them.

The environment alone is enough where it says everything, as on Lambda, and then boto3 is not
imported. Otherwise boto3's own chain is asked: profiles, shared files, single sign-on, containers,
instance metadata; and its configuration for the endpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from excamera_dask.storage.errors import NoCredentials, StorageError

DEFAULT_REGION = "us-east-1"
CREDENTIALS_LAST = timedelta(minutes=5)
"""After which the chain is asked again; it renews what expires."""
CONNECT_SECONDS, STALL_SECONDS, ATTEMPT_SECONDS = 3, 8, 60
"""Longest wait for a connection, for the next bytes, and for a whole answer."""


@dataclass(frozen=True)
class Access:
    """How to speak to a store; endpoint is None for AWS's own."""

    region: str
    endpoint: str | None
    key_id: str | None = None
    secret: str | None = None
    token: str | None = None
    refresh: Callable[[], Any] | None = None

    @property
    def is_anonymous(self) -> bool:
        """Requests are not signed: for public buckets."""
        return self.key_id is None and self.refresh is None

    def name(self) -> str:
        """The endpoint in words."""
        return self.endpoint or f"AWS in {self.region}"

    def options(self, bucket: str) -> dict[str, Any]:
        """What obstore's S3Store is made with."""
        options: dict[str, Any] = {
            "region": self.region,
            "virtual_hosted_style_request": self.endpoint is None and "." not in bucket,
            "client_options": {
                "allow_http": (self.endpoint or "").startswith("http:"),
                "connect_timeout": f"{CONNECT_SECONDS}s",
                "read_timeout": f"{STALL_SECONDS}s",
                "timeout": f"{ATTEMPT_SECONDS}s",
            },
            "retry_config": {"max_retries": 0},  # `Bucket` repeats, and counts
        }
        if self.endpoint:
            options["endpoint"] = self.endpoint
        if self.refresh is not None:
            options["credential_provider"] = self._credential
        elif self.key_id is not None:
            options |= {"access_key_id": self.key_id, "secret_access_key": self.secret}
            if self.token:
                options["session_token"] = self.token
        else:
            options["skip_signature"] = True
        return options

    def _credential(self) -> dict[str, Any]:
        assert self.refresh is not None
        frozen = self.refresh()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_LAST,
        }

    def client(self) -> Any:
        """A boto3 client of the same store."""
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
        )
        session = boto3.Session()
        return session.client(
            "s3", region_name=self.region, endpoint_url=self.endpoint, config=config,
            aws_access_key_id=self.key_id, aws_secret_access_key=self.secret, aws_session_token=self.token,
        )  # fmt: skip


def find_access() -> Access:
    """The access that the environment and AWS's shared files describe; raises NoCredentials, StorageError."""
    environment = os.environ
    if _is_true(environment.get("AWS_SKIP_SIGNATURE")):
        return Access(_region() or DEFAULT_REGION, _endpoint())
    if _environment_says_all():
        return Access(
            _region() or DEFAULT_REGION,
            _endpoint(),
            environment["AWS_ACCESS_KEY_ID"],
            environment["AWS_SECRET_ACCESS_KEY"],
            environment.get("AWS_SESSION_TOKEN"),
        )
    return _from_boto3()


def environment_key() -> tuple[tuple[str, str], ...]:
    """The part of the environment on which `find_access` depends."""
    return tuple(
        sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_") or k == "HOME")
    )


def _environment_says_all() -> bool:
    present = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= os.environ.keys()
    config = Path(os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser()
    return present and "AWS_PROFILE" not in os.environ and not config.exists()


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _endpoint() -> str | None:
    if _is_true(os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")):
        return None
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "on")


def _from_boto3() -> Access:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session()
        region = os.environ.get("AWS_REGION") or session.region_name or DEFAULT_REGION
        credentials = session.get_credentials()
        endpoint = str(session.client("s3", region_name=region).meta.endpoint_url)
    except (BotoCoreError, ValueError) as error:
        raise StorageError(f"AWS configuration: {' '.join(str(error).split())}") from None
    if credentials is None:
        raise NoCredentials(
            "no AWS credentials found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(AWS_SKIP_SIGNATURE=true for public buckets)"
        )
    usual = (f"https://s3.{region}.amazonaws.com", "https://s3.amazonaws.com")
    own = None if endpoint in usual else endpoint
    return Access(region, own, refresh=credentials.get_frozen_credentials)
