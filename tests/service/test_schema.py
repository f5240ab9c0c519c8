"""The service against its own OpenAPI description: whatever is sent, the answer is one that the description names."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient

import tercet
from tercet.gallery import open_gallery
from tercet.service import Journal, Settings, make_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def described(run: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The service's description, and the service with a key and one person."""
    model = tercet.load(run)
    uri = str(tmp_path_factory.mktemp("gallery") / "g.db")
    with open_gallery(uri, model=model.fingerprint, dimension=16, create=True) as gallery:
        app = make_app(model, gallery, Settings(keys=(KEY,), per_minute=1e9), Journal(io.StringIO()))
        with TestClient(app) as client:
            picture = (pictures / "p00" / "0.png").read_bytes()
            client.headers["authorization"] = f"Bearer {KEY}"
            assert client.post("/v1/enroll", files={"file": picture}, data={"identity": "Zoë"}).status_code == 200
            yield schemathesis.openapi.from_asgi("/openapi.json", app), client, picture


def operations(schema: object) -> list:
    return [result.ok() for result in schema.get_all_operations()]


def test_every_operation_is_described(described) -> None:
    schema, _, _ = described
    found = {(op.method.upper(), op.path) for op in operations(schema)}
    commands = ("verify", "identify", "search", "enroll", "forget")
    assert found == {
        *(("POST", f"/v1/{command}") for command in commands),
        *(("GET", f"/v1/{place}") for place in ("list", "about", "picture/{template}")),
        ("GET", "/health"),
        ("GET", "/metrics"),
    }


NAMED = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_as_described(described, mode: str) -> None:
    """Forms as described, of every operation, and such as break the description, with real pictures among the files."""
    schema, client, picture = described
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in NAMED]
    accepted = set()
    for operation in operations(schema):

        @given(case=operation.as_strategy(schemathesis.GenerationMode(mode)), real=st.booleans())
        @settings(max_examples=8, suppress_health_check=list(HealthCheck), deadline=None)
        def drawn(case, real: bool) -> None:
            if real and isinstance(case.body, dict):
                files = {"a", "b", "file"}
                case.body = {
                    name: ([picture] if isinstance(value, list) else picture) if name in files else value
                    for name, value in case.body.items()
                }
            response = case.call(headers={"authorization": f"Bearer {KEY}"})
            case.validate_response(response, checks=checks)
            if response.status_code == 200:
                accepted.add(case.operation.path)
            assert mode == "negative" or response.status_code != 401

        try:
            drawn()
        except Unsatisfiable:  # nothing can be wrong about a request that has no parts
            assert mode == "negative"
            assert operation.method.upper() == "GET"
    if mode == "positive":
        assert accepted >= {"/v1/identify", "/v1/search", "/v1/list", "/health"}
    assert client.get("/health").status_code == 200


def test_no_operation_but_health_works_without_a_key(described) -> None:
    schema, client, _ = described
    for operation in operations(schema):
        answer = client.request(
            operation.method, operation.path.replace("{template}", "0"), headers={"authorization": ""}
        )
        assert answer.status_code == (200 if operation.path == "/health" else 401), operation.path
        secured = operation.definition.raw.get("security")
        assert bool(secured) == (operation.path != "/health")
