"""From what obstore and boto3 raise to our own errors, and whether asking again may help."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from excamera_dask.storage.errors import (
    AccessDenied,
    CredentialsRefused,
    NoCredentials,
    NoSuchBucket,
    NoSuchObject,
    NoSuchRange,
    NoSuchUpload,
    ObjectArchived,
    ObjectChanged,
    StorageError,
    StoreUnavailable,
    WrongRegion,
)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>|DeleteObjects .*\(code: (\w+)\)")
_REGION = re.compile(r"<Region>\s*([\w-]+)\s*</Region>|expecting '([\w-]+)'")
_CAUSE = re.compile(r'message: "((?:[^"\\]|\\.)*)"|(TimedOut|ConnectionRefused|IncompleteMessage)')
_UNTRUSTED = re.compile(r"InvalidCertificate|UnknownIssuer|CERTIFICATE_VERIFY_FAILED")
_NOT_TLS = re.compile(r"InvalidMessage|CorruptMessage|WRONG_VERSION_NUMBER")
_NO_RANGES = re.compile(r"non-partial response when range requested|NotPartial")
_REFUSED = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
    "RequestExpired", "RequestTimeTooSkewed", "InvalidSecurity", "UnrecognizedClientException",
}  # fmt: skip
_BUSY = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "ThrottlingException", "Throttling",
    "RequestLimitExceeded", "OperationAborted",
}  # fmt: skip
_REDIRECTS = {
    "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException",
}  # fmt: skip


class Failure(NamedTuple):
    """What a request ended with: an HTTP status (0: none came, or one for many objects), S3's code for it, its text."""

    status: int
    code: str
    text: str

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        if self.status == 0 and not self.code:
            return not any(words.search(self.text) for words in (_UNTRUSTED, _NOT_TLS, _NO_RANGES))
        return self.status >= 500 or self.status in (408, 429) or self.code in _BUSY


def failure_of(error: BaseException) -> Failure:
    """What obstore's or boto3's exception tells."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(response.get("Error", {}).get("Code", ""))
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region")
        return Failure(status, code, f"{error}<Region>{region}</Region>" if region else str(error))
    text = str(error)
    found, named = _STATUS.search(text), _CODE.search(text)
    if found is None and isinstance(error, (TimeoutError, ConnectionError)):
        return Failure(0, "", text or "timed out")
    code = (named[1] or named[2]) if named else ""
    return Failure(int(found[1]) if found else 0, code, text)


def explain(failure: Failure, url: object, bucket: str, endpoint: str, region: str) -> StorageError:
    """The error that a user reads; `url` is what was asked for."""
    status, code, text = failure
    said = f" ({code or status})" if code or status else ""
    if code == "NoSuchBucket" or (status == 404 and code == "" and "list-type" in text):
        return NoSuchBucket(f"{url}: no bucket {bucket} at {endpoint}")
    if code == "NoSuchUpload":
        return NoSuchUpload(
            f"{url}: its upload was ended from elsewhere: does another job write it?"
        )
    if status == 404:
        return NoSuchObject(f"{url}: no such object")
    if status == 416:
        return NoSuchRange(f"{url}: ends before the bytes that were asked for")
    if status == 412:
        return ObjectChanged(f"{url}: changed since it was opened; start again")
    if code in _REDIRECTS or status in (301, 307) or "LOCATION" in text:
        return _wrong_region(text, url, bucket, region)
    if code in _REFUSED or status == 401:
        return CredentialsRefused(
            f"{url}: the credentials are refused{said}: expired, or of another store?"
        )
    if code in ("InvalidObjectState", "ObjectNotInActiveTierError"):
        return ObjectArchived(
            f"{url}: is archived (Glacier) and cannot be read: restore it first, as by aws s3api restore-object"
        )
    if _NO_RANGES.search(text):
        return StorageError(
            f"{url}: {endpoint} sends whole objects only, and no ranges of them: copy it to a file, or to another store"
        )
    if status == 403 or code == "AccessDenied":
        return AccessDenied(
            f"{url}: access denied{said}: the credentials in use have no right to it"
        )
    if "NoCredentials" in text or "Unable to locate credentials" in text:
        return NoCredentials(
            f"{url}: no AWS credentials found: set AWS_PROFILE or AWS_ACCESS_KEY_ID"
        )
    if status >= 500 or status in (408, 429) or code in _BUSY:
        return StoreUnavailable(f"{url}: {endpoint} answers with errors{said}; try again later")
    if status == 0:
        return StoreUnavailable(
            f"{url}: {endpoint} does not answer ({_cause(text)}): check AWS_ENDPOINT_URL and the network"
        )
    return StorageError(f"{url}: {endpoint} refuses the request{said}")


def _wrong_region(text: str, url: object, bucket: str, region: str) -> WrongRegion:
    found = _REGION.search(text)
    right = (found[1] or found[2]) if found else None
    if right is None:
        return WrongRegion(
            f"{url}: bucket {bucket} is not in {region}: set AWS_REGION to its region"
        )
    return WrongRegion(
        f"{url}: bucket {bucket} is in {right}, not {region}: set AWS_REGION={right}"
    )


def _cause(text: str) -> str:
    causes = [a or b for a, b in _CAUSE.findall(text)]
    if "timed out" in text or "TimedOut" in text:
        return "timed out"
    if _UNTRUSTED.search(text):
        return "its certificate is not trusted"
    if _NOT_TLS.search(text):
        return "it does not speak TLS"
    if "dns error" in text:
        return "no such host"
    if causes:
        return str(causes[-1]).lower()
    first = " ".join(text.split("\n\nDebug source")[0].split())
    return first.rpartition(" - ")[2][:120]
