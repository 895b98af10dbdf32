# SPDX-License-Identifier: Apache-2.0
"""Writes the REST API as OpenAPI 3.1, out of the .proto files and their comments.

usage: gen_openapi.py API_PB VERSION OUTPUT_JSON OUTPUT_C

API_PB is the FileDescriptorSet of descriptors.py. OUTPUT_C has the same document as the C array openapi_json.
"""

import json
import re
import sys

from google.protobuf import descriptor_pb2

import gen_api

Field = descriptor_pb2.FieldDescriptorProto

SCALARS = {
    Field.TYPE_DOUBLE: {"type": "number", "format": "double"},
    Field.TYPE_FLOAT: {"type": "number", "format": "float"},
    # proto3 JSON writes 64-bit integers as strings, and reads both.
    Field.TYPE_INT64: {"type": ["string", "integer"], "format": "int64", "pattern": "^-?[0-9]+$"},
    Field.TYPE_UINT64: {"type": ["string", "integer"], "format": "uint64", "pattern": "^[0-9]+$"},
    Field.TYPE_INT32: {"type": "integer", "format": "int32"},
    Field.TYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0},
    Field.TYPE_BOOL: {"type": "boolean"},
    Field.TYPE_STRING: {"type": "string"},
    Field.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}

# Messages whose JSON is not an object of their fields.
SPECIAL = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$"},
    ".google.protobuf.Struct": {"type": "object"},
    ".google.protobuf.Value": {},
    ".google.protobuf.Any": {"$ref": "#/components/schemas/Any"},
    ".google.rpc.Status": {"$ref": "#/components/schemas/Status"},
    ".envgate.v1.Payload": {"$ref": "#/components/schemas/Payload"},
}

FIXED_SCHEMAS = {
    "Any": {
        "type": "object",
        "description": "A message of the type that @type names, such as google.rpc.ErrorInfo, google.rpc.RetryInfo or google.rpc.BadRequest.",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": True,
    },
    "Status": {
        "type": "object",
        "description": "google.rpc.Status: why something failed.",
        "properties": {
            "code": {"type": "integer", "format": "int32", "description": "google.rpc.Code."},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {"$ref": "#/components/schemas/Any"}},
        },
    },
    "Error": {
        "type": "object",
        "description": "An error, as https://google.aip.dev/193 has it.",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "code": {"type": "integer", "description": "The HTTP status."},
                    "message": {"type": "string", "description": "What is wrong and what to do, for people."},
                    "status": {"type": "string", "description": "google.rpc.Code by name: NOT_FOUND, INVALID_ARGUMENT …"},
                    "details": {
                        "type": "array",
                        "description": "google.rpc.ErrorInfo (domain envgate; its reason is stable, for programs), and where they make "
                        "sense google.rpc.RetryInfo and google.rpc.BadRequest.",
                        "items": {"$ref": "#/components/schemas/Any"},
                    },
                },
                "required": ["code", "message", "status"],
            }
        },
        "required": ["error"],
    },
    "Payload": {
        "description": "An environment's own data: any JSON value. Its bytes are passed on as they are.",
    },
}

ERROR = {
    "description": "An error; error.status and the reason in error.details say which.",
    "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}

# google.rpc.Code by the HTTP status that it has over REST.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# What every method may answer: a malformed request, a limit of size or memory, a fault, a shutdown, timeout_s; and those with a body, for
# what comes as one: too large, of another content type.
ALWAYS = {400, 429, 500, 503, 504}
WITH_BODY = {413, 415}

TEXT = {"text/plain": {"schema": {"type": "string"}}}

# The gateway's own paths (front/http_routes.c): summary and responses.
OWN_PATHS = {
    "/healthz": ("Says whether the process lives", "getHealth", {"200": {"description": "It lives.", "content": TEXT}}),
    "/readyz": (
        "Says whether the gateway takes new sessions",
        "getReadiness",
        {
            "200": {"description": "It does.", "content": TEXT},
            "503": {"description": "It is shutting down.", "content": TEXT},
        },
    ),
    "/metrics": ("Returns metrics in Prometheus' text format 0.0.4", "getMetrics", {"200": {"description": "The metrics.", "content": TEXT}}),
    "/openapi.json": (
        "Returns this document",
        "getOpenApi",
        {"200": {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}}},
    ),
}


class Comments:
    """The comments of one file, by the path of what they stand above."""

    def __init__(self, file):
        self.at = {tuple(location.path): location.leading_comments for location in file.source_code_info.location}

    def get(self, *path):
        """Paragraphs are kept, the line breaks in them are not."""
        paragraphs = re.split(r"\n\s*\n", self.at.get(path, "").strip())
        return "\n\n".join(re.sub(r"\s+", " ", paragraph).strip() for paragraph in paragraphs)


class Generator:
    def __init__(self, files):
        self.messages = {}  # full name with a leading dot → (message, comments, path)
        self.enums = {}
        self.schemas = dict(FIXED_SCHEMAS)
        self.methods = {}  # name → comment
        for file in files:
            for i, service in enumerate(file.service):
                self.methods |= {method.name: Comments(file).get(6, i, 2, k) for k, method in enumerate(service.method)}
            self.index(f".{file.package}", file.message_type, file.enum_type, Comments(file), (), (4, 5))

    def index(self, scope, messages, enums, comments, path, tags):
        """`tags` are the field numbers of messages and enums in what encloses them: FileDescriptorProto's differ from DescriptorProto's."""
        for i, enum in enumerate(enums):
            self.enums[f"{scope}.{enum.name}"] = (enum, comments, (*path, tags[1], i))
        for i, message in enumerate(messages):
            here = (*path, tags[0], i)
            self.messages[f"{scope}.{message.name}"] = (message, comments, here)
            self.index(f"{scope}.{message.name}", message.nested_type, message.enum_type, comments, here, (3, 4))

    # --- schemas ---

    @staticmethod
    def schema_name(full_name):
        """.envgate.v1.Session.State → Session.State"""
        return re.sub(r"^\.[a-z0-9_.]*\.(?=[A-Z])", "", full_name)

    def reference(self, full_name):
        """A schema that refers to a message or enum; the schema it refers to is made on the way."""
        if full_name in SPECIAL:
            return dict(SPECIAL[full_name])
        name = self.schema_name(full_name)
        if name not in self.schemas:
            self.schemas[name] = {}  # a message may hold itself
            self.schemas[name] = self.enum_schema(full_name) if full_name in self.enums else self.message_schema(full_name)
        return {"$ref": f"#/components/schemas/{name}"}

    def enum_schema(self, full_name):
        enum, comments, path = self.enums[full_name]
        values = [f"- {value.name}: {comments.get(*path, 2, i)}" for i, value in enumerate(enum.value)]
        return {
            "type": "string",
            "description": "\n".join([comments.get(*path), "", *values]).strip(),
            "enum": [value.name for value in enum.value],
        }

    def map_entry(self, field):
        if field.type != Field.TYPE_MESSAGE:
            return None
        message = self.messages[field.type_name][0]
        return message if message.options.map_entry else None

    def value_schema(self, field):
        if field.type in (Field.TYPE_MESSAGE, Field.TYPE_ENUM):
            return self.reference(field.type_name)
        return dict(SCALARS[field.type])

    def field_schema(self, field, description):
        entry = self.map_entry(field)
        if entry:
            schema = {"type": "object", "additionalProperties": self.value_schema(entry.field[1])}
        elif field.label == Field.LABEL_REPEATED:
            schema = {"type": "array", "items": self.value_schema(field)}
        else:
            schema = self.value_schema(field)
        if description:
            schema["description"] = description
        return schema

    def message_schema(self, full_name, leave_out=()):
        message, comments, path = self.messages[full_name]
        schema = {"type": "object", "description": comments.get(*path), "properties": {}}
        required = []
        for i, field in enumerate(message.field):
            if field.name in leave_out:
                continue
            description = comments.get(*path, 2, i)
            schema["properties"][field.name] = self.field_schema(field, description)
            if self.is_required(description):
                required.append(field.name)
        if required:
            schema["required"] = required
        return schema

    @staticmethod
    def is_required(description):
        return description.endswith("Required.")

    # --- paths ---

    def field(self, full_name, name):
        message, comments, path = self.messages[full_name]
        for i, field in enumerate(message.field):
            if field.name == name:
                return field, comments.get(*path, 2, i)
        sys.exit(f"gen_openapi.py: {full_name} has no field {name}")

    @staticmethod
    def split_path(template):
        """Of /v1/{name=sessions/*}/state: /v1/sessions/{session}/state, the fields {"name"}, the parameters [("session", "sessions")]."""
        fields, parameters = set(), []

        def variable(match):
            field, pattern = match.group(1), match.group(2) or "*"
            fields.add(field)
            collection, star, rest = pattern.rpartition("/")
            if rest != "*" or "*" in collection:
                sys.exit(f"gen_openapi.py: cannot describe the path {template}")
            parameter = collection.removesuffix("s") if star else field
            parameters.append((parameter, collection))
            return f"{collection}{star}{{{parameter}}}"

        return re.sub(r"\{([a-z_.]+)(?:=([^}]*))?\}", variable, template), fields, parameters

    def parameters(self, method, in_path, path_fields, in_query):
        result = []
        for name, collection in in_path:
            of = f" of the resource name {collection}/{{{name}}}" if collection else ""
            result.append({"name": name, "in": "path", "required": True, "description": f"The id{of}.", "schema": {"type": "string"}})
        message, comments, path = self.messages[method.input_type]
        for i, field in enumerate(message.field if in_query else []):
            if field.name in path_fields:
                continue
            description = comments.get(*path, 2, i)
            parameter = {"name": field.name, "in": "query", "description": description, "schema": self.value_schema(field)}
            if self.is_required(description):
                parameter["required"] = True
            result.append(parameter)
        return result

    def body(self, method, rule_body, path_fields):
        if rule_body == "*":
            schema = self.message_schema(method.input_type, path_fields)
            options = [f for f in self.messages[method.input_type][0].field if f.name == "options" and f.type_name == ".envgate.v1.Payload"]
            schema["additionalProperties"] = bool(options)  # rpc/rest.h says why
            if options:
                schema["properties"]["options"]["type"] = "object"
        else:
            field, description = self.field(method.input_type, rule_body)
            schema = self.field_schema(field, description)
        return {"required": bool(schema.get("required")), "content": {"application/json": {"schema": schema}}}

    def reply(self, method, response_body):
        if response_body:
            field, description = self.field(method.output_type, response_body)
            schema = self.field_schema(field, "")
        else:
            schema = self.reference(method.output_type)
            message, comments, path = self.messages[method.output_type]
            description = comments.get(*path)
        if method.server_streaming:
            description += " One JSON object a line, each as it comes. When the stream ends with an error, the last line is that error."
        return {
            "description": description,
            "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
            "content": {"application/x-ndjson" if method.server_streaming else "application/json": {"schema": schema}},
        }

    def error_statuses(self, description, seen=()):
        """What a method's comment names: codes, and other methods by "as for Step" or "those of CreateSession"."""
        found = {HTTP_STATUS[word] for word in re.findall(r"[A-Z_]+", description) if word in HTTP_STATUS}
        for other in re.findall(r"(?:as for|those of) ([A-Z]\w+)", description):
            if other not in seen:
                found |= self.error_statuses(self.methods[other], (*seen, other))
        return found

    def operation(self, service, method, description):
        verb, template, rule_body, response_body = gen_api.http_rule(method)
        path, path_fields, in_path = self.split_path(template)
        operation = {
            "operationId": method.name[0].lower() + method.name[1:],
            "tags": [service.name],
            "summary": re.split(r"(?<=\.)\s", description, maxsplit=1)[0].rstrip("."),
            "description": description,
        }
        parameters = self.parameters(method, in_path, path_fields, rule_body != "*")
        if parameters:
            operation["parameters"] = parameters
        if rule_body:
            operation["requestBody"] = self.body(method, rule_body, path_fields)
        errors = self.error_statuses(description) | ALWAYS | (WITH_BODY if rule_body else set())
        operation["responses"] = {"200": self.reply(method, response_body)}
        operation["responses"] |= {str(status): {"$ref": "#/components/responses/Error"} for status in sorted(errors)}
        return path, verb.lower(), operation

    def document(self, files, version):
        paths, tags = {}, []
        for file in files:
            comments = Comments(file)
            for s, service in enumerate(file.service):
                described = [(m, method) for m, method in enumerate(service.method) if gen_api.http_rule(method)[0]]
                if described:
                    tags.append({"name": service.name, "description": comments.get(6, s)})
                for m, method in described:
                    path, verb, operation = self.operation(service, method, comments.get(6, s, 2, m))
                    paths.setdefault(path, {})[verb] = operation
        for path, (summary, operation_id, responses) in OWN_PATHS.items():
            paths[path] = {"get": {"operationId": operation_id, "tags": ["Operation"], "summary": summary, "responses": responses}}
        tags.append({"name": "Operation", "description": "For probes, monitoring and tools."})
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "envgate",
                "version": version,
                "summary": "Reinforcement learning environments over gRPC and HTTP.",
                "description": "The REST form of the gRPC services in proto/envgate/v1. Field names may be given in snake_case or "
                "lowerCamelCase; replies have snake_case.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": tags,
            "paths": dict(sorted(paths.items())),
            "components": {
                "schemas": dict(sorted(self.schemas.items())),
                "responses": {"Error": ERROR},
                "headers": {
                    "RequestId": {
                        "description": "The request's id in the gateway's log: the caller's own x-request-id where it sent a sane one.",
                        "schema": {"type": "string"},
                    }
                },
            },
        }


def c_array(data):
    lines = ["const char openapi_json[] = {"]
    for at in range(0, len(data), 24):
        lines.append("  " + " ".join(f"{byte if byte < 128 else byte - 256}," for byte in data[at : at + 24]))
    lines += ["};", "const size_t openapi_json_size = sizeof openapi_json;", ""]
    return lines


def main():
    source, version, target_json, target_c = sys.argv[1:]
    api = descriptor_pb2.FileDescriptorSet()
    with open(source, "rb") as f:
        api.ParseFromString(f.read())
    document = Generator(api.file).document(api.file, version)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    with open(target_json, "w", encoding="utf-8") as f:
        f.write(text)
    head = gen_api.FILE_HEAD.replace("gen_api.py", "gen_openapi.py")
    out = [head, "#include <stddef.h>", "", "extern const char openapi_json[];", "extern const size_t openapi_json_size;", ""]
    with open(target_c, "w", encoding="utf-8") as f:
        f.write("\n".join(out + c_array(text.encode())))


if __name__ == "__main__":
    main()
