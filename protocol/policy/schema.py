"""The JSON Schema of policy documents, for editors and for other programs."""

from typing import Any

from protocol.policy.document import Policy

_AMOUNT = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]{1,78}$"}],
    "description": "A whole number below 2^256; as a decimal string where it is above 2^53.",
}
_TOKEN = {
    "type": "string",
    "pattern": "^eip155:[1-9][0-9]*/[-a-z0-9]{3,8}:0x[0-9a-fA-F]{40}/[0-9]+$",
    "description": "A token's CAIP-19 name, with a checksummed contract.",
}


def policy_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12. What it cannot say (fields that exclude one another) ``parse_policy`` checks."""
    schema = Policy.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    definitions["Token"] = _TOKEN
    for one in definitions.values():
        if "kind" in one.get("properties", {}):
            one["required"] = ["kind", *one.get("required", [])]
        for field in ("at_least", "token_id"):
            if field in one.get("properties", {}):
                default = {key: value for key, value in one["properties"][field].items() if key == "default"}
                one["properties"][field] = {**_AMOUNT, **default}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
