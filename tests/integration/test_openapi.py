# SPDX-License-Identifier: Apache-2.0
"""/openapi.json is valid OpenAPI, and what the gateway sends fits its schemas."""

import jsonschema
import openapi_spec_validator
import pytest


@pytest.fixture(scope="module")
def document(shared_gateway):
    return shared_gateway.get("/openapi.json").json()


def schema_of(document, verb, path, status="200"):
    operation = document["paths"][path][verb]
    reply = operation["responses"][status]
    if "$ref" in reply:
        assert reply["$ref"] == "#/components/responses/Error"
        reply = document["components"]["responses"]["Error"]
    return reply["content"]["application/json"]["schema"]


def assert_fits(document, value, schema):
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": document["components"], **schema}
    jsonschema.Draft202012Validator(whole, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(value)


def test_valid(document):
    openapi_spec_validator.validate(document)
    assert document["openapi"].startswith("3.1")


def test_every_path_is_served(shared_gateway, document):
    for path, operations in document["paths"].items():
        for verb in operations:
            reply = shared_gateway.http.request(verb.upper(), shared_gateway.url + path.replace("{", "%7B").replace("}", "%7D"), timeout=20)
            known = reply.json()["error"]["details"][0]["reason"] if reply.status_code >= 400 else ""
            assert known != "METHOD_NOT_FOUND", f"{verb} {path}"


def test_every_method_is_there(document):
    names = {operation["operationId"] for operations in document["paths"].values() for operation in operations.values()}
    assert {"createSession", "createSessions", "getSession", "listSessions", "closeSession", "reset", "step", "stepBatch", "resetBatch", "getState"} <= names
    assert {"listEnvironments", "getEnvironment", "getSchema"} <= names


def test_every_operation_is_described(document):
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            assert operation["summary"], f"{verb} {path}"
            for parameter in operation.get("parameters", []):
                assert parameter["description"], f"{verb} {path} {parameter['name']}"
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description"), name
        for field, field_schema in schema.get("properties", {}).items():
            assert field_schema.get("description") or name in ("Status", "Any", "Error"), f"{name}.{field}"


def test_required_fields(document):
    body = document["paths"]["/v1/sessions/{session}/step"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["action"] and "session" not in body["properties"] and body["additionalProperties"] is False
    batch = document["paths"]["/v1/sessions:stepBatch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "required" not in batch and document["components"]["schemas"]["StepRequest"]["required"] == ["session", "action"]
    resets = document["paths"]["/v1/sessions:resetBatch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert resets["required"] == ["items"]
    reset = document["paths"]["/v1/sessions/{session}/reset"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert reset["additionalProperties"] is True


def test_replies_fit(shared_gateway, document):
    g = shared_gateway
    created = g.post("/v1/sessions", {"environment": "echo"}).json()
    assert_fits(document, created, schema_of(document, "post", "/v1/sessions"))
    path = "/v1/" + created["name"]
    assert_fits(document, g.post(path + "/reset").json(), schema_of(document, "post", "/v1/sessions/{session}/reset"))
    step = g.post(path + "/step", {"action": {"message": "x"}}).json()
    assert_fits(document, step, schema_of(document, "post", "/v1/sessions/{session}/step"))
    items = [{"session": created["name"], "action": {"message": "x"}}, {"session": "sessions/nope", "action": {}}]
    batch = g.post("/v1/sessions:stepBatch", {"items": items}).json()
    assert batch["items"][0]["result"] and batch["items"][1]["status"]["code"] == 5
    assert_fits(document, batch, schema_of(document, "post", "/v1/sessions:stepBatch"))
    assert_fits(document, g.get("/v1/environments").json(), schema_of(document, "get", "/v1/environments"))
    assert_fits(document, g.get("/v1/sessions").json(), schema_of(document, "get", "/v1/sessions"))
    error = g.get("/v1/sessions/nope").json()
    assert_fits(document, error, schema_of(document, "get", "/v1/sessions/{session}", "404"))
    with pytest.raises(jsonschema.ValidationError):
        assert_fits(document, {"name": 1}, schema_of(document, "post", "/v1/sessions"))
