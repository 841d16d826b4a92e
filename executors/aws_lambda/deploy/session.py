"""Sessions with AWS that answer soon or fail soon, and what their failures mean in one line."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as failures
from botocore.config import Config

from executors.aws_lambda.deploy.errors import DeploymentError
from executors.aws_variables import UNFORESEEN, forget_empty_variables, ignores_endpoints
from executors.loopback import reach_loopback_directly

CONNECT_TIMEOUT = 3  # seconds
READ_TIMEOUT = 5
FAST = Config(
    connect_timeout=CONNECT_TIMEOUT,
    read_timeout=READ_TIMEOUT,
    retries={"total_max_attempts": 1, "mode": "standard"},
)
PATIENT = Config(
    connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 4, "mode": "standard"}
)
CREDENTIALS = (
    "run aws configure, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


class AwsRefused(DeploymentError):
    """AWS, or what stands for it, cannot be reached or says no; the message says what to do."""


@dataclass(frozen=True)
class Place:
    """Where in AWS: a region and a profile, None for the environment's; another endpoint where it is not AWS itself."""

    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    s3_endpoint_url: str | None = field(default=None)

    def endpoint(self, service: str) -> str | None:
        """The URL of a service that is not at AWS's own address."""
        if service == "s3":
            return self.s3_endpoint_url or _s3_endpoint() or self.endpoint_url
        return self.endpoint_url


def _s3_endpoint() -> str | None:
    """The store that the environment names, unless it says that none of these count."""
    return None if ignores_endpoints() else os.environ.get("AWS_ENDPOINT_URL_S3")


def open_session(place: Place) -> boto3.session.Session:
    """A session with credentials that are there and a region that exists.

    Asks the instance's metadata once, for a second, where there are no credentials elsewhere. Raises: AwsRefused.
    """
    forget_empty_variables()
    try:
        session = boto3.session.Session(
            region_name=place.region or os.environ.get("AWS_REGION"),
            profile_name=place.profile,
        )
        session._session.set_config_variable("metadata_service_timeout", 1)
        session._session.set_config_variable("metadata_service_num_attempts", 1)
        _check_region(session, place)
        credentials = session.get_credentials()
        if credentials is None:
            raise failures.NoCredentialsError
        credentials.get_frozen_credentials()
    except (failures.BotoCoreError, failures.ClientError) as error:
        raise AwsRefused(explain(error, place)) from None
    except UNFORESEEN as error:
        raise AwsRefused(
            f"AWS credentials cannot be had ({_brief(error)}): {CREDENTIALS}"
        ) from None
    return session


def client(
    session: boto3.session.Session, service: str, place: Place, config: Config = FAST
) -> Any:
    """A boto3 client of `service`, at the place's endpoint if it has one of its own. Raises: AwsRefused."""
    reach_loopback_directly(place.endpoint(service))
    try:
        made = session.client(service, endpoint_url=place.endpoint(service), config=config)
        _ = urlsplit(
            made.meta.endpoint_url
        ).port  # a wrong one is found out here, not when it is used
    except (failures.BotoCoreError, ValueError) as error:
        raise AwsRefused(explain(error, place)) from None
    return made


def _check_region(session: boto3.session.Session, place: Place) -> None:
    region = session.region_name
    if region is None:
        raise failures.NoRegionError
    if place.endpoint_url:
        return
    known = {
        name
        for partition in session.get_available_partitions()
        for name in session.get_available_regions("lambda", partition)
    }
    if region not in known:
        close = difflib.get_close_matches(region, known, 1)
        hint = f"did you mean {close[0]}?" if close else "give another --region"
        raise AwsRefused(f"there is no AWS region {region}: {hint}")


def explain(error: Exception, place: Place) -> str:
    """What a failure of boto3 means, and what to do, in one line."""
    if isinstance(error, failures.ClientError):
        return _explain_answer(error)
    if isinstance(error, (failures.NoCredentialsError, failures.PartialCredentialsError)):
        return f"no AWS credentials found: {CREDENTIALS}"
    if isinstance(error, failures.ProfileNotFound):
        return f"there is no AWS profile {error.kwargs['profile']}: see aws configure list-profiles"
    if isinstance(error, failures.NoRegionError):
        return "no AWS region chosen: give --region, or set AWS_REGION"
    if isinstance(
        error, (failures.SSOError, failures.TokenRetrievalError, failures.UnauthorizedSSOTokenError)
    ):
        return f"the AWS sign-in has run out ({error}): run aws sso login"
    if isinstance(error, (failures.CredentialRetrievalError, failures.MetadataRetrievalError)):
        return f"AWS credentials cannot be had ({_brief(error)}): {CREDENTIALS}"
    if isinstance(error, (failures.HTTPClientError, failures.ConnectionError)):
        return _explain_network(error, place)
    if isinstance(error, ValueError):  # boto3's word for an endpoint
        return f"{_brief(error)}: check AWS_ENDPOINT_URL, give a URL such as http://host:9000"
    return f"AWS cannot be asked: {_brief(error)}"


def _explain_network(error: Exception, place: Place) -> str:
    where = (
        (getattr(error, "kwargs", None) or {}).get("endpoint_url") or place.endpoint_url or "AWS"
    )
    where = "/".join(str(where).split("/")[:3])
    if isinstance(error, failures.SSLError):
        return f"{where} has a certificate that is not trusted here: set AWS_CA_BUNDLE to your authority's"
    if isinstance(error, failures.ProxyConnectionError):
        return f"the proxy to {where} does not answer: check HTTPS_PROXY"
    if place.endpoint_url:
        return f"{where} cannot be reached: is the server of that endpoint running?"
    return f"{where} cannot be reached: check the network, and HTTPS_PROXY if there is a proxy"


def code_of(error: failures.ClientError) -> str:
    """AWS's word for what is wrong, such as AccessDeniedException."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_denied(error: failures.ClientError) -> bool:
    """Whether the caller only lacks a right."""
    return code_of(error) in (
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "403",
    )


def _explain_answer(error: failures.ClientError) -> str:
    code, operation = code_of(error), error.operation_name
    text = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    if is_denied(error):
        return f"AWS does not allow {operation} to this user: give it the rights of excamera lambda policy"
    if code.startswith(("ExpiredToken", "RequestExpired")):
        return f"the AWS credentials have expired: {CREDENTIALS}"
    if "Signature" in code and ("expired" in text or "not yet current" in text):
        return "the clock of this machine is wrong, AWS takes no requests from it: set it (timedatectl set-ntp true)"
    if (
        code in ("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId")
        or "Signature" in code
    ):
        return f"AWS does not know these credentials ({code}): {CREDENTIALS}"
    return f"AWS refuses {operation}: {text or code} ({code})"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
