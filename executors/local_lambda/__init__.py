"""A local Lambda: AWS Lambda's Invoke API and Runtime API on this machine, for development and tests."""

from executors.local_lambda.errors import (
    FunctionRefused,
    InvalidSettings,
    LocalLambdaError,
    StartFailed,
)
from executors.local_lambda.faults import Faults
from executors.local_lambda.local import LocalLambda
from executors.local_lambda.quotas import Settings

__all__ = [
    "Faults",
    "FunctionRefused",
    "InvalidSettings",
    "LocalLambda",
    "LocalLambdaError",
    "Settings",
    "StartFailed",
]
