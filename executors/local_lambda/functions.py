"""Functions as the management API knows them: checked, kept, and told about."""

from __future__ import annotations

import dataclasses
import datetime
import platform
import re
import sys
import uuid
from pathlib import Path
from typing import Any

from executors.local_lambda import quotas
from executors.local_lambda.code import Code, place_code
from executors.local_lambda.errors import ApiError, conflict, invalid, not_found
from executors.local_lambda.quotas import Settings

FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NO_FUNCTION_NAME = "is no function name: use letters, digits, - and _, at most 64"
_ARN = re.compile(
    r"(?:arn:aws[a-z-]*:lambda:[a-z0-9-]+:)?(?:(?P<account>\d{12}):)?(?:function:)?(?P<name>[A-Za-z0-9_-]+)(?::(?P<qualifier>[$A-Za-z0-9_-]+))?"
)
RESERVED_VARIABLES = frozenset(
    {
        *("_HANDLER", "_X_AMZN_TRACE_ID", "AWS_REGION", "AWS_EXECUTION_ENV"),
        *("AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        *("AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
        *("AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_INITIALIZATION_TYPE"),
        *("AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API"),
        *("LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR"),
    }
)


@dataclasses.dataclass(frozen=True)
class EventConfig:
    """What becomes of Event invocations that do not succeed: maximum age in seconds, and retries."""

    age: int = quotas.EVENT_AGE[1]
    retries: int = quotas.EVENT_RETRIES[1]
    destinations: dict[str, Any] = dataclasses.field(default_factory=dict)
    changed: float = 0.0


@dataclasses.dataclass
class Function:
    """One function; `revision` changes with everything that environments depend on."""

    name: str
    arn: str
    code: Code
    package_type: str
    handler: str
    role: str
    runtime: str
    memory: int
    timeout: int
    storage: int
    variables: dict[str, str]
    architecture: str
    description: str
    tags: dict[str, str]
    log_group: str
    active_at: float
    image_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    changed: datetime.datetime = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC)
    )
    revision: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    reserved: int | None = None
    events: EventConfig = EventConfig()

    def to_json(self, now: float) -> dict[str, Any]:
        """The FunctionConfiguration of the API."""
        pending = now < self.active_at
        answer: dict[str, Any] = {
            "FunctionName": self.name,
            "FunctionArn": self.arn,
            "Role": self.role,
            "CodeSize": self.code.size,
            "CodeSha256": self.code.sha256,
            "Description": self.description,
            "Timeout": self.timeout,
            "MemorySize": self.memory,
            "LastModified": self.changed.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000",
            "Version": "$LATEST",
            "TracingConfig": {"Mode": "PassThrough"},
            "RevisionId": self.revision,
            "State": "Pending" if pending else "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": self.package_type,
            "Architectures": [self.architecture],
            "EphemeralStorage": {"Size": self.storage},
            "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": self.log_group},
        }
        if pending:
            answer |= {
                "StateReason": "The function is being created.",
                "StateReasonCode": "Creating",
            }
        if self.variables:
            answer["Environment"] = {"Variables": self.variables}
        if self.package_type == "Zip":
            answer |= {"Runtime": self.runtime, "Handler": self.handler}
        elif self.image_config:
            answer["ImageConfigResponse"] = {"ImageConfig": self.image_config}
        return answer


class Functions:
    """All functions of the account."""

    def __init__(self, settings: Settings, state: Path) -> None:
        self._settings = settings
        self._state = state
        self._functions: dict[str, Function] = {}

    def __iter__(self) -> Any:
        return iter(sorted(self._functions.values(), key=lambda function: function.name))

    def find(self, text: str, qualifier: str | None = None) -> Function:
        """The function that a name, a partial or a whole ARN means.

        Raises: ApiError(404).
        """
        match = _ARN.fullmatch(text)
        name = match["name"] if match else text
        version = qualifier or (match["qualifier"] if match else None) or "$LATEST"
        arn = self._arn(name)
        if name not in self._functions:
            raise not_found(f"Function not found: {arn}")
        if version != "$LATEST":
            raise not_found(f"Function not found: {arn}:{version}")
        return self._functions[name]

    def holds(self, function: Function) -> bool:
        """True unless it has been deleted since."""
        return self._functions.get(function.name) is function

    def create(self, request: dict[str, Any], now: float) -> Function:
        """Make a function of a CreateFunction request.

        Raises: ApiError.
        """
        name = str(request.get("FunctionName", "")).rsplit(":", 1)[-1]
        if not FUNCTION_NAME.fullmatch(name):
            raise invalid(f"{name!r} {NO_FUNCTION_NAME}")
        if name in self._functions:
            raise conflict(f"Function already exist: {name}")
        if not request.get("Role"):
            raise invalid("The role defined for the function cannot be assumed by Lambda.")
        package_type = request.get("PackageType", "Zip")
        image_config = request.get("ImageConfig", {})
        function = Function(
            name=name,
            arn=self._arn(name),
            code=place_code(request.get("Code", {}), package_type, self._state, name),
            package_type=package_type,
            handler=_handler(request, package_type),
            role=request["Role"],
            runtime=request.get("Runtime", f"python3.{sys.version_info.minor}"),
            memory=_within("MemorySize", request.get("MemorySize", 128), quotas.MEMORY),
            timeout=_within("Timeout", request.get("Timeout", 3), quotas.TIMEOUT),
            storage=_storage(request),
            variables=_variables(request),
            architecture=_architecture(request),
            description=request.get("Description", ""),
            tags=dict(request.get("Tags", {})),
            log_group=request.get("LoggingConfig", {}).get("LogGroup", f"/aws/lambda/{name}"),
            image_config=image_config,
            active_at=now + self._settings.activation_delay,
        )
        self._functions[name] = function
        return function

    def update(self, function: Function, request: dict[str, Any]) -> None:
        """Change what an UpdateFunctionConfiguration request names.

        Raises: ApiError.
        """
        changes: dict[str, Any] = {}
        if "MemorySize" in request:
            changes["memory"] = _within("MemorySize", request["MemorySize"], quotas.MEMORY)
        if "Timeout" in request:
            changes["timeout"] = _within("Timeout", request["Timeout"], quotas.TIMEOUT)
        if "EphemeralStorage" in request:
            changes["storage"] = _storage(request)
        if "Environment" in request:
            changes["variables"] = _variables(request)
        if "ImageConfig" in request:
            changes["image_config"] = request["ImageConfig"]
            changes["handler"] = _handler(request, "Image")
        for member, field in (
            ("Handler", "handler"),
            ("Role", "role"),
            ("Description", "description"),
        ):
            if member in request:
                changes[field] = request[member]
        self._change(function, changes)

    def update_code(self, function: Function, request: dict[str, Any]) -> None:
        """Take the code that an UpdateFunctionCode request names.

        Raises: ApiError.
        """
        code = place_code(request, function.package_type, self._state, function.name)
        self._change(function, {"code": code})

    def delete(self, function: Function) -> None:
        """Forget it."""
        del self._functions[function.name]

    def reserve(self, function: Function, amount: int) -> None:
        """Set its reserved concurrency.

        Raises: ApiError where too little would be left for the other functions.
        """
        others = sum(each.reserved or 0 for each in self if each is not function)
        minimum = min(quotas.UNRESERVED_MINIMUM, self._settings.concurrency // 10)
        if amount < 0 or others + amount > self._settings.concurrency - minimum:
            raise invalid(
                "Specified ReservedConcurrentExecutions for function decreases account's "
                f"UnreservedConcurrentExecution below its minimum value of [{minimum}]."
            )
        function.reserved = amount

    def unreserved(self) -> int:
        """Executions at once that functions without a reservation share."""
        return self._settings.concurrency - sum(each.reserved or 0 for each in self)

    def _arn(self, name: str) -> str:
        return f"arn:aws:lambda:{self._settings.region}:{self._settings.account}:function:{name}"

    @staticmethod
    def _change(function: Function, changes: dict[str, Any]) -> None:
        for field, value in changes.items():
            setattr(function, field, value)
        function.changed = datetime.datetime.now(datetime.UTC)
        function.revision = str(uuid.uuid4())


def check_event_config(request: dict[str, Any], before: EventConfig, now: float) -> EventConfig:
    """The configuration that a Put- or UpdateFunctionEventInvokeConfig request asks for.

    Raises: ApiError.
    """
    return EventConfig(
        age=_within(
            "MaximumEventAgeInSeconds",
            request.get("MaximumEventAgeInSeconds", before.age),
            quotas.EVENT_AGE,
        ),
        retries=_within(
            "MaximumRetryAttempts",
            request.get("MaximumRetryAttempts", before.retries),
            quotas.EVENT_RETRIES,
        ),
        destinations=request.get("DestinationConfig", before.destinations),
        changed=now,
    )


def _within(name: str, value: int, bounds: tuple[int, int]) -> int:
    low, high = bounds
    if not isinstance(value, int) or not low <= value <= high:
        raise ApiError(
            400,
            "InvalidParameterValueException",
            f"'{name}' value {value} failed to satisfy constraint: between {low} and {high}",
        )
    return value


def _storage(request: dict[str, Any]) -> int:
    size = request.get("EphemeralStorage", {}).get("Size", quotas.EPHEMERAL_STORAGE[0])
    return _within("EphemeralStorage.Size", size, quotas.EPHEMERAL_STORAGE)


def _variables(request: dict[str, Any]) -> dict[str, str]:
    variables = dict(request.get("Environment", {}).get("Variables", {}))
    reserved = sorted(RESERVED_VARIABLES & variables.keys())
    if reserved:
        raise invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have "
            "provided contains reserved keys that are currently not supported for modification. "
            f"Reserved keys used in this request: {', '.join(reserved)}"
        )
    size = sum(len(key.encode()) + len(value.encode()) for key, value in variables.items())
    if size > quotas.ENVIRONMENT_BYTES:
        raise invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have "
            f"provided exceeded the 4KB limit. String measured: {size} bytes"
        )
    return variables


def _handler(request: dict[str, Any], package_type: str) -> str:
    if package_type == "Zip":
        handler = request.get("Handler", "")
    else:
        handler = (request.get("ImageConfig", {}).get("Command") or [""])[-1]
    if not handler:
        member = "Handler" if package_type == "Zip" else "ImageConfig.Command"
        raise invalid(f"{member} must name the handler, as in module.function")
    return str(handler)


def _architecture(request: dict[str, Any]) -> str:
    asked = request.get("Architectures", ["x86_64"])[0]
    here = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), "x86_64")
    if asked != here and "Architectures" in request:
        raise invalid(f"This machine runs functions for {here} only, not for {asked}")
    return here
