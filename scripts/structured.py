"""Whether each value of a file is valid for its schema, as PyPI's jsonschema says; a line is [schema, value].

    scripts/structured.py target/tmp/structured.jsonl
"""

import json
import sys

import jsonschema

checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
missing = {"date", "time", "uuid", "ipv4"} - set(checker.checkers)
if missing:
    sys.exit(f"error: no checks of the formats {missing}; install rfc3339-validator")


def is_valid(schema, value):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema, format_checker=checker).is_valid(value)


pairs = [json.loads(line) for line in open(sys.argv[1])]
wrong = [pair for pair in pairs if not is_valid(*pair)]
for schema, value in wrong:
    print(f"{json.dumps(value)} is not valid for {json.dumps(schema)}", file=sys.stderr)
if len(pairs) < 240 or wrong:
    sys.exit(f"error: {len(wrong)} of {len(pairs)} values are not valid (240 are expected)")
# A checker that finds nothing proves nothing: most values are wrong for most other schemas.
others = [is_valid(schema, value) for (schema, _), (_, value) in zip(pairs, pairs[1:])]
if sum(others) > len(others) // 2:
    sys.exit(f"error: {sum(others)} of {len(others)} values are valid for another schema, too")
print(f"{len(pairs)} values are valid for their schemas; {len(others) - sum(others)} of {len(others)} are not for the next one")
