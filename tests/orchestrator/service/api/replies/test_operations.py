"""Names in the OpenAPI document, which generated clients give to methods and classes, stay as they are."""

import json
import re
from collections import Counter

import pytest
from support.service import service

OPERATIONS = {
    "submit_job": "post /v1/jobs",
    "validate_job": "post /v1/jobs:validate",
    "list_jobs": "get /v1/jobs",
    "get_job": "get /v1/jobs/{job_id}",
    "delete_job": "delete /v1/jobs/{job_id}",
    "set_job_priority": "patch /v1/jobs/{job_id}",
    "retry_job": "post /v1/jobs/{job_id}/retry",
    "cancel_job": "post /v1/jobs/{job_id}/cancel",
    "pause_job": "post /v1/jobs/{job_id}/pause",
    "resume_job": "post /v1/jobs/{job_id}/resume",
    "checkpoint_job": "post /v1/jobs/{job_id}/checkpoint",
    "scale_job": "patch /v1/jobs/{job_id}/rollout-workers",
    "list_workers": "get /v1/jobs/{job_id}/workers",
    "query_metrics": "get /v1/jobs/{job_id}/metrics",
    "list_samples": "get /v1/jobs/{job_id}/samples",
    "get_sample_audio": "get /v1/jobs/{job_id}/samples/{sample}/audio",
    "list_checkpoints": "get /v1/jobs/{job_id}/checkpoints",
    "stream_events": "get /v1/jobs/{job_id}/events",
    "stream_logs": "get /v1/jobs/{job_id}/logs",
    "get_cluster": "get /v1/cluster",
    "get_version": "get /v1/version",
    "get_me": "get /v1/me",
    "get_limits": "get /v1/limits",
    "list_audit_entries": "get /v1/audit",
    "get_health": "get /healthz",
    "get_readiness": "get /readyz",
    "export_metrics": "get /metrics",
    "list_problems": "get /problems",
    "get_problem": "get /problems/{code}",
}
VERBS = (
    "submit", "validate", "list", "get", "delete", "set", "retry", "cancel", "pause", "resume", "checkpoint", "scale",
    "query", "stream", "export",
)  # fmt: skip


@pytest.fixture
async def document(tmp_path):
    async with service(tmp_path) as made:
        return made.app.openapi()


@pytest.mark.anyio
async def test_operations_keep_their_ids(document):
    found = [
        (operation["operationId"], f"{method} {path}", operation["tags"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    assert {name: route for name, route, _ in found} == OPERATIONS
    assert len(found) == len(OPERATIONS)
    assert all(len(tags) == 1 for _, _, tags in found)
    assert all(re.fullmatch(f"({'|'.join(VERBS)})(_[a-z]+)+", name) for name in OPERATIONS)


@pytest.mark.anyio
async def test_parameters_have_their_bounds(document):
    parameters = {each["name"]: each["schema"] for each in document["paths"]["/v1/jobs"]["post"]["parameters"]}
    assert (parameters["priority"]["minimum"], parameters["priority"]["maximum"]) == (-100, 100)
    text = json.dumps(document)
    assert not [name for name in ("ge", "le", "gt", "lt") if f'"{name}":' in text]


@pytest.mark.anyio
async def test_schemas_have_names_of_classes(document):
    schemas = document["components"]["schemas"]
    assert {"JobPage", "EventPage", "SamplePage", "CheckpointPage", "LogLinePage", "WorkerPage"} <= schemas.keys()
    assert not [name for name in schemas if not re.fullmatch(r"[A-Z][A-Za-z0-9]+", name)]
    titles = Counter(schema["title"] for schema in schemas.values() if "title" in schema)
    assert not [title for title, count in titles.items() if count > 1]
    assert not [name for name, schema in schemas.items() if schema.get("title", name) != name]
    text = json.dumps(document)
    assert {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]} <= schemas.keys()
    assert set(schemas["ProblemCode"]["enum"]) >= {"job_not_found", "unknown_parameter"}
    assert schemas["ProblemDocument"]["properties"]["code"]["$ref"] == "#/components/schemas/ProblemCode"
