"""Values that hostile requests are made of."""

import json
from typing import Any

SPEC: dict[str, Any] = {
    "name": "small",
    "steps": 20,
    "model": {"path": "builtin:tiny-qwen2-audio"},
    "data": {"train": "builtin:synthetic"},
}
TRAVERSALS = (
    "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//....//etc/passwd",
    "/etc/passwd", "file:///etc/passwd", "..\\..\\windows", "%c0%ae%c0%ae/", "%00", "a%00b", "\u202e", "%ff%fe",
    "~root", "*", "' OR 1=1 --", "1; DROP TABLE jobs", "${jndi:ldap://x}", "{{7*7}}", "<script>", "a" * 3000,
    "%0d%0aX-Evil: 1",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e308, 10**30, 10**400, "", "x" * 10_000, "\u0000", "\ud800", [], {}, [[]], {"a": {}}, "1",
    "1_0", "../x", "/etc/passwd", "builtin:", "os:system", "\u202e", "NaN", [None] * 100, {"__class__": "x"},
    "!!python/object:x",
)  # fmt: skip
NUMBERS = (
    b"1e999", b"-1e999", b"1e400", b"1" + b"0" * 30, b"1" + b"0" * 5000, b"true", b"false", b'"1_0"', b'"10"',
    b'"\xd9\xa1"', b"NaN", b"Infinity", b"-Infinity", b"1.0000000000000001", b"-0", b"0x10", b"01", b"1.", b".5", b"+1",
    b"null", b"[1]", b'{"$numberLong":"1"}',
)  # fmt: skip
COUNTS = ("1_0", "1e3", "true", "-1", "1" + "0" * 30, "NaN", "١", " 1", "1.5", "0x1", "")
PARTS = ("", "/workers", "/metrics", "/samples", "/checkpoints", "/events", "/logs", "/samples/0/audio", "/unknown")
DEEP = (b"[" * 100_000, b'{"a":' * 50_000, b"[" * 33 + b"]" * 33, b'{"steps":' * 40 + b"1" + b"}" * 40)
SMALL_BODIES = (
    b"", b"null", b"[]", b'"x"', b"{", b"{}", b'{"a":1,"a":2}', b'{"steps":NaN}', b'{"steps":Infinity}', b"\xff\xfe",
    b'{"name":"\\ud800"}', b'{"name":"\\u0000"}', b'{"steps":1' + b"0" * 5000 + b"}", b"\x80\x04\x95pickle", b"<xml/>",
)  # fmt: skip
LARGE_BODIES = (
    b"{" + b'"a":[' * 200_000, b"x" * (1024 * 1024 + 1), b" " * 1_500_000,
    json.dumps({**SPEC, "data": {"train": ["x"] * 200_000}}).encode(), b'{"name":"' + b"x" * 1_000_000 + b'"}',
    b"{" + b",".join(b'"k%d":0' % i for i in range(100_000)) + b"}",
    json.dumps({**SPEC, "reward": {"functions": {f"f{i}": 1 for i in range(30_000)}}}).encode(),
)  # fmt: skip
YAML = (
    b"a: &a [x]\nb: *a", b"!!python/object/apply:os.system ['true']", b"a: " + b"[" * 5000, b"a: 1\na: 2",
    b"? [1]\n: 2", b"a: 2020-01-01", b"a: .nan", b"&a [*a]", b"x: !!set {a}", b"<<: {a: 1}", b"a: \x00", b"1: 2",
    b"y" * 70_000, b"- a", b"%YAML 9.9\n--- {}", b"a: !<tag:yaml.org,2002:binary> x", b"a: !!timestamp 99999-99-99",
    b"steps: 1e999", b"steps: 1_0", b"steps: 1:30", b"{" + b"a: b, " * 8_000 + b"}",
)  # fmt: skip
RANGES = (
    "bytes=0-", "bytes=-1", "bytes=5-1", "bytes=0-0,1-1", "bytes=" + ",".join(f"{i}-{i}" for i in range(500)),
    "lines=1-",
    "bytes=99999999999999999999-", "bytes=x", "", "bytes=0-18446744073709551616",
)  # fmt: skip
PATH_FIELDS = (
    ("data", "train"), ("data", "evaluation"), ("data", "audio_root"), ("data", "evaluation_audio_root"),
    ("data", "curriculum"), ("model", "path"), ("learner", "audio_cache", "folder"), ("warm_start", "data"),
    ("storage",), ("cluster", "address"), ("reward", "judge", "url"), ("tracking", "mlflow"), ("tracking", "wandb"),
)  # fmt: skip
REWARDS = ("os:system", "subprocess:run", "builtins:eval", "orchestrator.places:data_directory", "a.b:c", "/etc/x:f")
