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
    PROBLEM_NOT_FOUND = "problem_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    STATE_CONFLICT = "state_conflict"
    NO_DRIVER_YET = "no_driver_yet"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    REQUEST_IN_PROGRESS = "request_in_progress"
    LIMIT_REACHED = "limit_reached"
    JOB_IN_USE = "job_in_use"
    RUN_UNREADABLE = "run_unreadable"
    RUN_NOT_REMOVABLE = "run_not_removable"
    PRECONDITION_FAILED = "precondition_failed"
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
    TOO_MANY_CONNECTIONS = "too_many_connections"
    ADMISSION_BUSY = "admission_busy"
    FILES_UNAVAILABLE = "files_unavailable"
    NOT_READY = "not_ready"
    CLUSTER_UNAVAILABLE = "cluster_unavailable"
    DATABASE_UNAVAILABLE = "database_unavailable"
    REQUEST_FAILED = "request_failed"


@dataclass(frozen=True, slots=True)
class ApiProblemKind:
    """Properties that all problems with one code share."""

    status: int
    """HTTP status."""
    title: str
    """A short summary."""
    meaning: str
    """Its meaning and what to do, in a sentence."""


KINDS: Mapping[ProblemCode, ApiProblemKind] = {
    ProblemCode.MALFORMED_REQUEST: ApiProblemKind(
        400, "The request cannot be parsed", "Path, query or a header is not valid HTTP or UTF-8; correct the client."
    ),
    ProblemCode.MALFORMED_BODY: ApiProblemKind(
        400, "The body cannot be parsed", "The body is not JSON or YAML that JSON could express; `detail` says where."
    ),
    ProblemCode.INVALID_CURSOR: ApiProblemKind(
        400, "The cursor is not valid", "Send a cursor that this service returned for the same list."
    ),
    ProblemCode.TOKEN_REQUIRED: ApiProblemKind(
        401, "A token is required", "Send the header `Authorization: Bearer earshot_…`."
    ),
    ProblemCode.TOKEN_INVALID: ApiProblemKind(
        401, "The token is not valid", "The token is unknown, revoked or expired; ask an admin for another."
    ),
    ProblemCode.ROLE_REQUIRED: ApiProblemKind(
        403, "The role does not allow this", "Use a token with the role that `detail` names."
    ),
    ProblemCode.ROUTE_NOT_FOUND: ApiProblemKind(
        404, "There is no such route", "Correct the path; `/openapi.json` has all of them."
    ),
    ProblemCode.JOB_NOT_FOUND: ApiProblemKind(
        404, "There is no such job", "No job has this id, or it belongs to another user."
    ),
    ProblemCode.SAMPLE_NOT_FOUND: ApiProblemKind(404, "There is no such sample", "The job has no sample with this id."),
    ProblemCode.CLIP_UNAVAILABLE: ApiProblemKind(
        404, "The clip is not available", "The clip is gone, or is not in a folder that this service may read."
    ),
    ProblemCode.PROBLEM_NOT_FOUND: ApiProblemKind(
        404, "There is no such problem", "`/problems` has all codes of this version of the service."
    ),
    ProblemCode.METHOD_NOT_ALLOWED: ApiProblemKind(
        405, "The method is not allowed", "Use a method that the header `Allow` names."
    ),
    ProblemCode.NOT_ACCEPTABLE: ApiProblemKind(
        406, "The response has no accepted form", "Accept a content type that the route has."
    ),
    ProblemCode.STATE_CONFLICT: ApiProblemKind(
        409, "The job's state does not allow this", "`detail` names the state and those that allow the request."
    ),
    ProblemCode.NO_DRIVER_YET: ApiProblemKind(409, "The job has no driver yet", "Send the request again in a moment."),
    ProblemCode.IDEMPOTENCY_CONFLICT: ApiProblemKind(
        409, "The idempotency key was used for another request", "Use a new key for each request."
    ),
    ProblemCode.REQUEST_IN_PROGRESS: ApiProblemKind(
        503,
        "A request with this idempotency key is in progress",
        "Wait for the seconds in `Retry-After`, then send the same request again.",
    ),
    ProblemCode.LIMIT_REACHED: ApiProblemKind(
        409, "A limit is reached", "End or scale down another job, or ask an admin for a higher limit."
    ),
    ProblemCode.JOB_IN_USE: ApiProblemKind(
        409, "Another job needs this job's files", "Wait until the jobs that `detail` names have ended."
    ),
    ProblemCode.RUN_UNREADABLE: ApiProblemKind(
        409, "The files of the run cannot be read", "The log of the service has the reason under this X-Request-Id."
    ),
    ProblemCode.RUN_NOT_REMOVABLE: ApiProblemKind(
        409,
        "The files of the run cannot be removed",
        "The log of the service has the reason under this X-Request-Id; send the request again once it is mended.",
    ),
    ProblemCode.PRECONDITION_FAILED: ApiProblemKind(
        412,
        "The condition of the request does not hold",
        "The file is another one than `If-Match` or `If-Unmodified-Since` names; changes take no such condition.",
    ),
    ProblemCode.BODY_TOO_LARGE: ApiProblemKind(413, "The body is too large", "`detail` has the limit."),
    ProblemCode.TARGET_TOO_LONG: ApiProblemKind(414, "The path or query is too long", "`detail` has the limit."),
    ProblemCode.UNSUPPORTED_CONTENT_TYPE: ApiProblemKind(
        415, "The content type is not supported", "Send application/json or application/yaml."
    ),
    ProblemCode.RANGE_NOT_SATISFIABLE: ApiProblemKind(
        416, "The range is not satisfiable", "Ask for bytes within the length that `Content-Range` has."
    ),
    ProblemCode.INVALID_REQUEST: ApiProblemKind(
        422, "The request is not valid", "`errors` names each value that is not valid."
    ),
    ProblemCode.UNKNOWN_PARAMETER: ApiProblemKind(
        422, "A query parameter is unknown", "Correct its name; `detail` has those that the route takes."
    ),
    ProblemCode.INVALID_JOB: ApiProblemKind(
        422, "The job is not valid, or not allowed here", "`detail` names the key of the job file and the correction."
    ),
    ProblemCode.JOB_NEVER_FITS: ApiProblemKind(
        422, "The job can never run here", "Lower what the job needs, as `detail` says."
    ),
    ProblemCode.RATE_LIMITED: ApiProblemKind(429, "Too many requests", "Wait for the seconds in `Retry-After`."),
    ProblemCode.TOO_MANY_GUESSES: ApiProblemKind(
        429, "Too many requests without a valid token", "Wait for the seconds in `Retry-After`."
    ),
    ProblemCode.QUEUE_FULL: ApiProblemKind(
        429, "The queue is full", "Wait until queued jobs have started, or cancel some."
    ),
    ProblemCode.HEADERS_TOO_LARGE: ApiProblemKind(431, "The headers are too large", "`detail` has the limit."),
    ProblemCode.REQUEST_TOO_SLOW: ApiProblemKind(
        408, "The request took too long to arrive", "Send the whole request at once."
    ),
    ProblemCode.INTERNAL_ERROR: ApiProblemKind(
        500, "Internal error", "The log of the service has the reason under this X-Request-Id."
    ),
    ProblemCode.TOO_MANY_STREAMS: ApiProblemKind(
        503, "Too many open streams", "Close streams that are not needed, or wait for the seconds in `Retry-After`."
    ),
    ProblemCode.TOO_MANY_CONNECTIONS: ApiProblemKind(
        503,
        "Too many open connections",
        "Close connections that are not needed, or wait for the seconds in `Retry-After`.",
    ),
    ProblemCode.ADMISSION_BUSY: ApiProblemKind(
        503, "Too many jobs are being checked", "Wait for the seconds in `Retry-After`, then submit again."
    ),
    ProblemCode.FILES_UNAVAILABLE: ApiProblemKind(
        503,
        "The files do not answer",
        "The folder of the run or of the clip hangs or cannot be read; wait for the seconds in `Retry-After`.",
    ),
    ProblemCode.NOT_READY: ApiProblemKind(503, "The service cannot run jobs now", "`detail` says what it waits for."),
    ProblemCode.CLUSTER_UNAVAILABLE: ApiProblemKind(
        503, "The cluster does not answer", "Wait for the seconds in `Retry-After`."
    ),
    ProblemCode.DATABASE_UNAVAILABLE: ApiProblemKind(
        503, "The database cannot be reached", "Wait for the seconds in `Retry-After`."
    ),
    ProblemCode.REQUEST_FAILED: ApiProblemKind(400, "The request failed", "`detail` has more, and so has the status."),
}
