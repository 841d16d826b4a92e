"""A local Lambda: AWS Lambda's Invoke API and Runtime API on this machine, for development and tests."""

from executors.aws_lambda.emulator.errors import (
    FunctionRefused,
    InvalidSettings,
    LocalLambdaError,
    StartFailed,
)
from executors.aws_lambda.emulator.faults import Faults
from executors.aws_lambda.emulator.local import LocalLambda
from executors.aws_lambda.emulator.quotas import Settings

__all__ = [
    "Faults",
    "FunctionRefused",
    "InvalidSettings",
    "LocalLambda",
    "LocalLambdaError",
    "Settings",
    "StartFailed",
]
