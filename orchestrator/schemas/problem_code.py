"""The problems that the API reports: a stable code for each kind of error, with its status and title."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ProblemCode(StrEnum):
    """Kind of an error. Codes are a contract: programs branch on them, and their meaning does not change."""

    MALFORMED_REQUEST = "malformed_request"
    MALFORMED_BODY = "malformed_body"
    INVALID_CURSOR = "invalid_cursor"
    TOKEN_REQUIRED = "token_required"
    TOKEN_INVALID = "token_invalid"
    ROLE_REQUIRED = "role_required"
    ROUTE_NOT_FOUND = "route_not_found"
    JOB_NOT_FOUND = "job_not_found"
    SAMPLE_NOT_FOUND = "sample_not_found"
    CLIP_UNAVAILABLE = "clip_unavailable"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    STATE_CONFLICT = "state_conflict"
    NO_DRIVER_YET = "no_driver_yet"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    LIMIT_REACHED = "limit_reached"
    JOB_IN_USE = "job_in_use"
    RUN_UNREADABLE = "run_unreadable"
    BODY_TOO_LARGE = "body_too_large"
    TARGET_TOO_LONG = "target_too_long"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    INVALID_REQUEST = "invalid_request"
    UNKNOWN_PARAMETER = "unknown_parameter"
    INVALID_JOB = "invalid_job"
    JOB_NEVER_FITS = "job_never_fits"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_GUESSES = "too_many_guesses"
    QUEUE_FULL = "queue_full"
    HEADERS_TOO_LARGE = "headers_too_large"
    REQUEST_TOO_SLOW = "request_too_slow"
    INTERNAL_ERROR = "internal_error"
    TOO_MANY_STREAMS = "too_many_streams"
    ADMISSION_BUSY = "admission_busy"
    NOT_READY = "not_ready"
    CLUSTER_UNAVAILABLE = "cluster_unavailable"
    DATABASE_UNAVAILABLE = "database_unavailable"
    REQUEST_FAILED = "request_failed"


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """What every problem with one code has in common."""

    status: int
    """HTTP status."""
    title: str
    """A short summary."""
    meaning: str
    """What it means and what to do, in a sentence."""


KINDS: Mapping[ProblemCode, ProblemKind] = {
    ProblemCode.MALFORMED_REQUEST: ProblemKind(
        400, "The request cannot be parsed", "Path, query or a header is not valid HTTP or UTF-8; correct the client."
    ),
    ProblemCode.MALFORMED_BODY: ProblemKind(
        400, "The body cannot be parsed", "The body is not JSON or YAML that JSON could express; `detail` says where."
    ),
    ProblemCode.INVALID_CURSOR: ProblemKind(
        400, "The cursor is not valid", "Send a cursor that this service returned for the same list."
    ),
    ProblemCode.TOKEN_REQUIRED: ProblemKind(
        401, "A token is required", "Send the header `Authorization: Bearer earshot_…`."
    ),
    ProblemCode.TOKEN_INVALID: ProblemKind(
        401, "The token is not valid", "The token is unknown, revoked or expired; ask an admin for another."
    ),
    ProblemCode.ROLE_REQUIRED: ProblemKind(
        403, "The role does not allow this", "Use a token with the role that `detail` names."
    ),
    ProblemCode.ROUTE_NOT_FOUND: ProblemKind(
        404, "There is no such route", "Correct the path; `/openapi.json` has all of them."
    ),
    ProblemCode.JOB_NOT_FOUND: ProblemKind(
        404, "There is no such job", "No job has this id, or it belongs to another user."
    ),
    ProblemCode.SAMPLE_NOT_FOUND: ProblemKind(404, "There is no such sample", "The job has no sample with this id."),
    ProblemCode.CLIP_UNAVAILABLE: ProblemKind(
        404, "The clip is not available", "The clip is gone, or is not in a folder that this service may read."
    ),
    ProblemCode.METHOD_NOT_ALLOWED: ProblemKind(
        405, "The method is not allowed", "Use a method that the header `Allow` names."
    ),
    ProblemCode.NOT_ACCEPTABLE: ProblemKind(
        406, "The response has no accepted form", "Accept a content type that the route has."
    ),
    ProblemCode.STATE_CONFLICT: ProblemKind(
        409, "The job's state does not allow this", "`detail` names the state and those that allow the request."
    ),
    ProblemCode.NO_DRIVER_YET: ProblemKind(409, "The job has no driver yet", "Send the request again in a moment."),
    ProblemCode.IDEMPOTENCY_CONFLICT: ProblemKind(
        409, "The idempotency key was used for another request", "Use a new key for each request."
    ),
    ProblemCode.LIMIT_REACHED: ProblemKind(
        409, "A limit is reached", "End or scale down another job, or ask an admin for a higher limit."
    ),
    ProblemCode.JOB_IN_USE: ProblemKind(
        409, "Another job needs this job's files", "Wait until the jobs that `detail` names have ended."
    ),
    ProblemCode.RUN_UNREADABLE: ProblemKind(
        409, "The files of the run cannot be read", "The log of the service has the reason under this X-Request-Id."
    ),
    ProblemCode.BODY_TOO_LARGE: ProblemKind(413, "The body is too large", "`detail` has the limit."),
    ProblemCode.TARGET_TOO_LONG: ProblemKind(414, "The path or query is too long", "`detail` has the limit."),
    ProblemCode.UNSUPPORTED_CONTENT_TYPE: ProblemKind(
        415, "The content type is not supported", "Send application/json or application/yaml."
    ),
    ProblemCode.RANGE_NOT_SATISFIABLE: ProblemKind(
        416, "The range is not satisfiable", "Ask for bytes within the length that `Content-Range` has."
    ),
    ProblemCode.INVALID_REQUEST: ProblemKind(
        422, "The request is not valid", "`errors` names each value that is not valid."
    ),
    ProblemCode.UNKNOWN_PARAMETER: ProblemKind(
        422, "A query parameter is unknown", "Correct its name; `detail` has those that the route takes."
    ),
    ProblemCode.INVALID_JOB: ProblemKind(
        422, "The job is not valid, or not allowed here", "`detail` names the key of the job file and the correction."
    ),
    ProblemCode.JOB_NEVER_FITS: ProblemKind(
        422, "The job can never run here", "Lower what the job needs, as `detail` says."
    ),
    ProblemCode.RATE_LIMITED: ProblemKind(429, "Too many requests", "Wait for the seconds in `Retry-After`."),
    ProblemCode.TOO_MANY_GUESSES: ProblemKind(
        429, "Too many requests without a valid token", "Wait for the seconds in `Retry-After`."
    ),
    ProblemCode.QUEUE_FULL: ProblemKind(
        429, "The queue is full", "Wait until queued jobs have started, or cancel some."
    ),
    ProblemCode.HEADERS_TOO_LARGE: ProblemKind(431, "The headers are too large", "`detail` has the limit."),
    ProblemCode.REQUEST_TOO_SLOW: ProblemKind(
        408, "The request took too long to arrive", "Send the whole request at once."
    ),
    ProblemCode.INTERNAL_ERROR: ProblemKind(
        500, "Internal error", "The log of the service has the reason under this X-Request-Id."
    ),
    ProblemCode.TOO_MANY_STREAMS: ProblemKind(
        503, "Too many open streams", "Close streams that are not needed, or wait for the seconds in `Retry-After`."
    ),
    ProblemCode.ADMISSION_BUSY: ProblemKind(
        503, "Too many jobs are being checked", "Wait for the seconds in `Retry-After`, then submit again."
    ),
    ProblemCode.NOT_READY: ProblemKind(503, "The service cannot run jobs now", "`detail` says what it waits for."),
    ProblemCode.CLUSTER_UNAVAILABLE: ProblemKind(
        503, "The cluster does not answer", "Wait for the seconds in `Retry-After`."
    ),
    ProblemCode.DATABASE_UNAVAILABLE: ProblemKind(
        503, "The database cannot be reached", "Wait for the seconds in `Retry-After`."
    ),
    ProblemCode.REQUEST_FAILED: ProblemKind(400, "The request failed", "`detail` has more, and so has the status."),
}
