"""What AWS's variables mean, alike to all that reads them (boto3, obstore, ourselves), and what boto3 makes of wrong ones."""

from __future__ import annotations

import os

UNFORESEEN = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What boto3 lets through, beside errors of its own, of programs and files that are to tell credentials, and do not."""


def forget_empty_variables() -> None:
    """Let a variable of AWS's that is empty count as not set, which those who read it take for a value."""
    for name in [
        name for name, value in os.environ.items() if name.startswith("AWS_") and not value
    ]:
        del os.environ[name]


def ignores_endpoints() -> bool:
    """Whether the environment says that the endpoints that are configured do not count; as botocore reads it."""
    return os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
