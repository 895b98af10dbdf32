# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, as the gateway tells it."""

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2


class Error(Exception):
    """A call that the gateway or the environment refused.

    `code` is a gRPC status code's name ("INVALID_ARGUMENT"), `reason` the stable word for what happened ("INVALID_ACTION"; docs/API.md has them all), and
    `retry` says that the same request with the same request_id may be sent again.
    """

    def __init__(self, message, code="UNKNOWN", reason="", retry=False):
        super().__init__(f"{message} ({reason or code})")
        self.code, self.reason, self.retry = code, reason, retry


class SessionLost(Error):
    """The session is gone, with its worker or its lease. Nothing brings the episode back; a new session begins a new one."""


class Timeout(Error, TimeoutError):
    """The reply did not come in time. The step goes on in the environment; the same request_id collects its reply."""


class BatchError(Error):
    """Some environments of a vector failed; the others were stepped.

    `errors` has an Error for each that failed, by its index. `results` is what step() or reset() would have returned, where the rows of those that failed are
    zeros. VectorEnv.replace() puts new sessions into the places of those that are lost.
    """

    def __init__(self, errors, results):
        first, error = next(iter(sorted(errors.items())))
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        super().__init__(f"environment {first}: {error}{more}", error.code, error.reason)
        self.errors, self.results = errors, results

    @property
    def lost(self):
        """The indices of those whose sessions are lost."""
        return sorted(i for i, e in self.errors.items() if isinstance(e, SessionLost))


LOST = {"SESSION_LOST", "SESSION_CLOSED", "SESSION_NOT_FOUND"}


def of_status(status):
    """The Error of a google.rpc.Status."""
    code = code_pb2.Code.Name(status.code)
    reason, may_retry = "", False
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
        may_retry = may_retry or detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    kind = SessionLost if reason in LOST else Timeout if code == "DEADLINE_EXCEEDED" else Error
    return kind(status.message, code, reason, code == "UNAVAILABLE" or (code == "RESOURCE_EXHAUSTED" and (may_retry or reason == "QUEUE_FULL")))


def of_call(error):
    """The Error of a grpc.RpcError."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    if not status.code:
        code = error.code() or grpc.StatusCode.UNKNOWN
        status = status_pb2.Status(code=code.value[0], message=error.details() or "")
    return of_status(status)
