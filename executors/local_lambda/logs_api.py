"""As much of CloudWatch Logs as reading logs needs: groups, streams, and their events by time and by words."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import Any

from tornado.web import RequestHandler

from executors.local_lambda.errors import ApiError, not_found
from executors.local_lambda.logs import LogEvent, LogStore

_TARGET = "Logs_20140328."
_LIMIT = 10_000


class LogsHandler(RequestHandler):
    """The one path of the API: the header X-Amz-Target names the operation."""

    store: LogStore

    def initialize(self, store: LogStore) -> None:
        self.store = store

    def post(self) -> None:
        target = self.request.headers.get("X-Amz-Target", "")
        operations = {
            "FilterLogEvents": self._filter,
            "GetLogEvents": self._get,
            "DescribeLogGroups": self._groups,
            "DescribeLogStreams": self._streams,
        }
        operation = operations.get(target.removeprefix(_TARGET))
        try:
            if operation is None:
                raise ApiError(400, "UnknownOperationException", f"no operation {target} here")
            request = json.loads(self.request.body or b"{}")
            if "logGroupName" not in request and "logGroupIdentifier" in request:
                request["logGroupName"] = request["logGroupIdentifier"].rsplit(":", 1)[-1]
            self._answer(operation(request))
        except ApiError as error:
            self.set_status(400)
            self._answer({"__type": error.kind, "message": error.message})

    def _answer(self, value: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/x-amz-json-1.1")
        self.finish(json.dumps(value))

    def _groups(self, request: dict[str, Any]) -> dict[str, Any]:
        prefix = request.get("logGroupNamePrefix", "")
        names = [name for name in self.store.groups() if name.startswith(prefix)]
        return {"logGroups": [{"logGroupName": name} for name in names]}

    def _streams(self, request: dict[str, Any]) -> dict[str, Any]:
        group = self._group(request)
        prefix = request.get("logStreamNamePrefix", "")
        names = [name for name in self.store.streams(group) if name.startswith(prefix)]
        return {"logStreams": [{"logStreamName": name} for name in names]}

    def _filter(self, request: dict[str, Any]) -> dict[str, Any]:
        group = self._group(request)
        wanted = request.get("logStreamNames") or self.store.streams(group)
        prefix = request.get("logStreamNamePrefix", "")
        terms = shlex.split(request.get("filterPattern", ""))
        events = [
            event
            for stream in wanted
            if stream.startswith(prefix)
            for event in self._between(request, self.store.read(group, stream))
            if all(term in event.message for term in terms)
        ]
        events.sort(key=lambda event: event.timestamp)
        begin = int(request.get("nextToken", 0))
        end = begin + min(_LIMIT, request.get("limit", _LIMIT))
        answer: dict[str, Any] = {"events": [_to_json(event, True) for event in events[begin:end]]}
        if end < len(events):
            answer["nextToken"] = str(end)
        return answer

    def _get(self, request: dict[str, Any]) -> dict[str, Any]:
        group, stream = self._group(request), request["logStreamName"]
        if not self.store.exists(group, stream):
            raise not_found("The specified log stream does not exist.")
        events = list(self._between(request, self.store.read(group, stream)))
        limit = min(_LIMIT, request.get("limit", _LIMIT))
        token = request.get("nextToken")
        if token is None:
            begin = 0 if request.get("startFromHead") else max(0, len(events) - limit)
        elif token.startswith("b/"):
            begin = max(0, int(token[2:]) - limit)
        else:
            begin = int(token[2:])
        end = min(len(events), begin + limit)
        return {
            "events": [_to_json(event, False) for event in events[begin:end]],
            "nextForwardToken": f"f/{end}",
            "nextBackwardToken": f"b/{begin}",
        }

    def _group(self, request: dict[str, Any]) -> str:
        group = str(request.get("logGroupName", ""))
        if not self.store.exists(group):
            raise not_found("The specified log group does not exist.")
        return group

    @staticmethod
    def _between(request: dict[str, Any], events: Iterable[LogEvent]) -> Iterable[LogEvent]:
        begin, end = request.get("startTime", 0), request.get("endTime", float("inf"))
        return (event for event in events if begin <= event.timestamp <= end)


def _to_json(event: LogEvent, with_stream: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "timestamp": event.timestamp,
        "ingestionTime": event.timestamp,
        "message": event.message,
    }
    if with_stream:
        answer |= {"logStreamName": event.stream, "eventId": f"{event.stream}/{event.number}"}
    return answer
