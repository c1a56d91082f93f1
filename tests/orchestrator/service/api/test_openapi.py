"""The OpenAPI document is complete, and schemathesis finds that responses conform to it."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.service import Threaded, sample

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def threaded(tmp_path_factory):
    # Streams must end soon: schemathesis reads each to its end.
    limits = {"max_stream_seconds": 0.05, "heartbeat_seconds": 0.02, "refusals_per_second": 1e6}
    with Threaded(tmp_path_factory.mktemp("openapi"), **limits) as running:
        yield running


@pytest.fixture(scope="module")
def schema(threaded):
    job, run = threaded.do(lambda made: made.running())
    run.append_samples([sample(str(threaded.made.clip()))])
    run.append_metrics({"step": 1, "reward/mean": 0.5})
    document = threaded.made.app.openapi()
    # Use the id of an existing job, as a reader of the document would.
    text = json.dumps(document).replace("5f0c2a9e7b1d4c38", job.id)
    loaded = schemathesis.openapi.from_dict(json.loads(text))
    loaded.job_id = job.id
    loaded.location = f"{threaded.url}/openapi.json"
    loaded.config.update(base_url=threaded.url)
    return loaded


def test_responses_conform_to_the_document(schema):
    """Send values that the document allows, and values that it does not."""
    asked = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        counts = asked[operation.label] = {}
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                check_operation(strategy, counts, schema.job_id, mode is GenerationMode.POSITIVE)
            except Unsatisfiable:
                # A request without parameters cannot be invalid.
                assert mode is GenerationMode.NEGATIVE
    print(json.dumps(asked, indent=1))
    assert len(asked) >= 18
    assert sum(counts.get(200, 0) for counts in asked.values()) > 50


def check_operation(strategy, counts, job_id, positive):
    @seed(1)
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=strategy)
    def check(case):
        if positive:
            # Random ids and tokens test little: most requests are about an existing job.
            case.headers.pop("Authorization", None)
            if "job_id" in case.path_parameters and len(counts) % 3:
                case.path_parameters["job_id"] = job_id
        response = case.call()
        counts[response.status_code] = counts.get(response.status_code, 0) + 1
        case.validate_response(response, checks=CHECKS)

    check()


def test_every_operation_has_examples_and_every_error_is_described(threaded):
    document = threaded.made.app.openapi()
    operations = [op for path in document["paths"].values() for op in path.values()]
    assert len(operations) >= 18
    for operation in operations:
        assert operation["summary"]
        assert operation["description"]
        for status, response in operation["responses"].items():
            assert response["description"]
            if status[0] == "4" or status[0] == "5":
                assert list(response["content"]) == ["application/problem+json"], (operation["summary"], status)
    schemas = document["components"]["schemas"]
    assert "JobSpec" in schemas
    for name in ("JobView", "WorkerView", "SampleView", "NodeView", "CheckpointView"):
        assert all("examples" in field or "$ref" in json.dumps(field) for field in schemas[name]["properties"].values())
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert reference in schemas, reference
