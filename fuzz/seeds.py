"""Makes the seeds of the fuzz targets, in seeds/TARGET/NAME: from golden values, from what services answer (crates/kms/facts), and what
was found once.

    python3 fuzz/seeds.py

Each target takes an input apart in its own way: see targets/TARGET.rs and src/lib.rs. A seed that nothing here makes is one that a run
found and somebody kept: it stays.
"""

import json
import pathlib
import re
import struct

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent
MOST = 2**64 - 1
KINDS = ["aws-kms", "azure-keyvault", "file", "gcp-kms", "kmip", "pkcs11", "vault-transit", "none", "escrow"]


def keep(target, name, data):
    """Writes one seed."""
    folder = HERE / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]).write_bytes(data)


def golden():
    """Values, their parts, contexts, compressed and stored documents."""
    vectors = json.loads((REPOSITORY / "tests/vectors/golden.json").read_text())
    for value in vectors["values"]:
        name = value["name"]
        if re.search(r"version (127|128|300)|long|lowest|highest", name):
            continue
        keep("value", name, bytes.fromhex(value["value"]))
        if len(value["context"] or "") > 510:
            continue
        plaintext, context = bytes.fromhex(value["plaintext"]), bytes.fromhex(value["context"] or "")
        code = value["type"] if isinstance(value["type"], int) else 0
        code = 1 if code == 13802 else code
        typed = b"" if code else value["type"].encode()
        keep("seal", name, b"".join([
            bytes([int(value["suite"].startswith("xaes")) | 2 * bool(context)]), bytes.fromhex(value["dek"]),
            bytes.fromhex(value["nonce"]).ljust(24, b"\0"), struct.pack(">IHH", value["version"] & 0xFFFFFFFF, code, 77),
            bytes([len(typed)]), typed, bytes([len(context)]), context, plaintext]))
        if "compressed" in name:
            keep("pack", name, plaintext)
        if "stored" in name:
            keep("jsonb", name, plaintext)
        if "numeric" in name:
            keep("numeric", name, plaintext)
    for number, context in enumerate(vectors["row_contexts"]):
        keep("value", f"context {number}", bytes.fromhex(context["bytes"]))
    keep("value", "place", b"colcrypt.place_context('app.customer.iban', id, \"Year\")")
    # A pair in an array in a record, one attribute short: types 4, 1 and 5 of the target.
    keep("value", "composite", struct.pack(">IIiIi", 2, 1, 1, 2, -1).replace(b"\0\0\0\2\xff", b"a\0\0\0\2\xff", 1))
    keep("pack", "block", b"\x01" + struct.pack(">I", 300) + b"\x1fa\x01\x00\xff\x18\x50aaaaa")
    keep("pack", "words", b"The quick brown fox jumps over the lazy dog. " * 9)


SCALAR, OBJECT, ARRAY, OFFSET = 0x10000000, 0x20000000, 0x40000000, 0x80000000
STRING, NUMERIC, FALSE, TRUE, NULL, CONTAINER = range(0, 0x60000000, 0x10000000)


def stored(value, offsets=True):
    """A document as PostgreSQL stores it: the root, or a container in another."""
    if not isinstance(value, (dict, list)):
        return struct.pack("<I", ARRAY | SCALAR | 1) + elements([value], offsets)
    if isinstance(value, list):
        return struct.pack("<I", ARRAY | len(value)) + elements(value, offsets)
    keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
    return struct.pack("<I", OBJECT | len(keys)) + elements(keys + [value[key] for key in keys], offsets)


def elements(values, offsets):
    """Entries and data."""
    entries, data = b"", b""
    for index, value in enumerate(values):
        start = len(data)
        if isinstance(value, str):
            kind, data = STRING, data + value.encode()
        elif isinstance(value, (dict, list, Digits)):
            data += b"\0" * (-len(data) % 4)
            inner = value.stored() if isinstance(value, Digits) else stored(value, offsets)
            kind, data = NUMERIC if isinstance(value, Digits) else CONTAINER, data + inner
        else:
            kind = {True: TRUE, False: FALSE, None: NULL}[value]
        number = OFFSET | len(data) if offsets and index % 32 == 0 else len(data) - start
        entries += struct.pack("<I", kind | number)
    return entries + data


class Digits:
    """A numeric by its words: a header of one or two, then digits of base 10,000."""

    def __init__(self, *words):
        self.words = struct.pack(f"<{len(words)}H", *words)

    def stored(self):
        """With a length word of four bytes."""
        return struct.pack("<I", (len(self.words) + 4) << 2) + self.words


def nested(levels):
    """An array in an array in an array."""
    value = stored([])
    for _ in range(levels):
        value = struct.pack("<II", ARRAY | 1, OFFSET | CONTAINER | len(value)) + value
    return value


def documents():
    """jsonb and numeric."""
    price, negative = Digits(0x8100, 1, 5000), Digits(0xA101, 1, 2345, 6700)
    for name, value in {
        "scalar": "hi", "number": price, "empty array": [], "empty object": {},
        "order": {"id": Digits(0x8000, 7), "price": price, "tags": ["a", "b\n\"", True, None], "of": {"é": negative}},
        "list": [None, True, False, "", "x" * 70, price, []], "many": ["ab"] * 40 + [price],
    }.items():
        keep("jsonb", name, stored(value))
    # Found: 388 bytes that were 201 MB, documents without offsets, numbers that are not normalised, deep ones, long ones.
    once = Digits(0, 0x7FFF).stored()
    entries = [OFFSET | NUMERIC | 8, OFFSET | NULL] * 46
    keep("jsonb", "found 21 ends decrease", struct.pack(f"<I{len(entries)}I", ARRAY | len(entries), *entries) + once)
    keep("jsonb", "found 21 without offsets", stored({f"k{n}": "v" for n in range(300)}, offsets=False))
    keep("jsonb", "found 21 not normalised", stored([Digits(0x8002, 0, 0, 12), Digits(0x8101, 0, 0, 5000, 0), Digits(0x8002)]))
    keep("jsonb", "found 22 nested", nested(1000))
    keep("jsonb", "found 22 long number", stored([Digits(0x0000, 1100, 1)]))
    for name, words in {
        "0": [0x8000], "0.00": [0x8100], "1": [0x8000, 1], "-12345.67": [0xA101, 1, 2345, 6700], "0.0001": [0x827F, 1],
        "1e252": [0x803F, 1], "long header": [0x4000, 64, 7], "nan": [0xC000], "not normalised": [0x8002, 0, 0, 12],
    }.items():
        keep("numeric", "stored " + name, struct.pack(f"<{len(words)}H", *words))
    for name, words in {
        "0": [0, 0, 0, 0], "1": [1, 0, 0, 0, 1], "-12345.67": [3, 1, 0x4000, 2, 1, 2345, 6700], "0.0001": [1, 0xFFFF, 0, 4, 1],
    }.items():
        keep("numeric", "sent " + name, struct.pack(f">{len(words)}H", *words))


def frames():
    """What broker and agent say."""
    kek = {"keyring": "de" * 16, "version": 1}
    copy = {"provider": {"name": "p", "kind": "file", "config": {"path": "/k"}}, "root_key": "r", "root_key_version": "1",
            "wrapped": "00ff"}
    ref = {"id": kek, "keyring": "k", "preferred": copy, "others": [copy], "kcv": "10ea099f69", "dek_wrap": "aes-256-gcm"}
    dek = {"key": "a63b7971fcf477f2", "version": 1}
    requests = {
        "configure": {"op": "configure", "settings": {
            "soft_ttl_ms": 1, "hard_ttl_ms": 2, "kms_timeout_ms": 3, "kms_retries": 4, "kms_backoff_ms": 5,
            "refusal_confirmations": 6, "refusal_interval_ms": MOST}},
        "validate": {"op": "validate_provider", "provider": copy["provider"]},
        "check": {"op": "check_provider", "provider": copy["provider"], "root_key": None},
        "create kek": {"op": "create_kek", "provider": copy["provider"], "root_key": "r", "id": kek, "source": "system"},
        "check kek": {"op": "check_kek", "kek": ref},
        "create dek": {"op": "create_dek", "kek": ref, "id": dek, "suite": "aes-256-gcm", "source": "provider"},
        "load dek": {"op": "load_dek", "kek": ref, "id": dek, "suite": "xaes-256-gcm", "wrapped": "00", "kcv": "10ea099f69"},
    }
    for name, request in requests.items():
        keep("protocol", name, frame({"id": 1, "request": request}))
    failure = {"kind": "denied", "message": "no"}
    for name, message in {
        "configured": {"reply": {"id": 1, "result": {"Ok": {"reply": "configured"}}}},
        "failed": {"reply": {"id": 2, "result": {"Err": failure}}},
        "dek loaded": {"reply": {"id": 3, "result": {"Ok": {"reply": "dek_loaded", "lease_ms": MOST}}}},
        "checked": {"reply": {"id": 4, "result": {"Ok": {"reply": "provider_checked", "report": {
            "server": "s", "root_key_version": "1", "latency_us": 1, "warnings": ["w"]}}}}},
        "lease": {"event": {"event": "kek_lease", "kek": kek, "lease_ms": 1}},
        "revoked": {"event": {"event": "kek_revoked", "kek": kek, "failure": failure}},
    }.items():
        keep("protocol", name, frame(message, b"\x09" * 32))
    keep("protocol", "two", frame({"id": 1, "request": requests["validate"]}) + frame({"id": 2, "request": requests["check"]})[1:])
    keep("protocol", "contradiction", bytes([3, 0, 0, 0, 4, 0, 0, 0, 9]))


def frame(message, secret=b""):
    """A frame that arrives in pieces of 9 bytes."""
    text = json.dumps(message).encode()
    return bytes([9]) + struct.pack(">II", 4 + len(text) + len(secret), len(text)) + text + secret


def item(tag, kind, value):
    """An item of TTLV."""
    if kind == 1:
        value = b"".join(value)
    if kind in (2, 5, 10):
        value = struct.pack(">I", value)
    if kind in (3, 9):
        value = struct.pack(">q", value)
    if kind == 7:
        value = value.encode()
    return struct.pack(">I", tag)[1:] + bytes([kind]) + struct.pack(">I", len(value)) + value + b"\0" * (-len(value) % 8)


def response(operation, payload=None, reason=None, text=None, version=(2, 0)):
    """A response to one operation, in the order of codes that the target has."""
    header = item(0x42007A, 1, [item(0x420069, 1, [item(0x42006A, 2, version[0]), item(0x42006B, 2, version[1])]), item(0x42000D, 2, 1)])
    parts = [item(0x42005C, 5, operation), item(0x42007F, 5, int(payload is None))]
    if payload is None:
        parts += [item(0x42007E, 5, reason), item(0x42007D, 7, text)]
    else:
        parts.append(item(0x42007C, 1, payload))
    return item(0x42007B, 1, [header, item(0x42000F, 1, parts)])


def kmip():
    """Answers of KMIP servers."""
    operations = {"locate": 0x08, "attributes": 0x0B, "query": 0x18, "versions": 0x1E, "encrypt": 0x1F, "decrypt": 0x20, "random": 0x25}
    order = list(operations)
    name = item(0x420094, 7, "7")
    attributes = item(0x420125, 1, [
        item(0x42008D, 5, 2), item(0x42002C, 2, 12), item(0x420028, 5, 3), item(0x42002A, 2, 256), item(0x42002F, 9, 4_000_000_000)])
    old = item(0x420008, 1, [item(0x42000A, 7, "State"), item(0x42000B, 5, 4)])
    data, nonce, tag = item(0x4200C2, 8, b"\x07" * 32), item(0x42003D, 8, b"\x01" * 12), item(0x4200FF, 8, b"\x02" * 16)
    for what, payload in {
        "locate": [name, name], "attributes": [name, attributes], "query": [item(0x42005C, 5, 0x25), item(0x42009D, 7, "Vendor")],
        "versions": [item(0x420069, 1, [item(0x42006A, 2, 1), item(0x42006B, 2, 4)])], "encrypt": [name, data, nonce, tag],
        "decrypt": [name, data], "random": [data],
    }.items():
        keep("kmip", what, bytes([order.index(what)]) + response(operations[what], payload))
    keep("kmip", "attributes 1.4", bytes([0x80 | 1]) + response(0x0B, [name, old], version=(1, 4)))
    for fact in facts("kmip"):
        if fact[0] == "kmip" and fact[1].startswith("0x"):
            keep("kmip", f"refused {fact[1]}", bytes([5]) + response(0x20, reason=int(fact[1], 16), text=fact[2]))
    keep("kmip", "every type", bytes([0]) + item(0x420020, 1, [
        item(1, 2, 8), item(2, 3, 9), item(3, 4, b"\0" * 16), item(4, 5, 255), item(5, 6, b"\0" * 7 + b"\1"), item(6, 7, "Hello World"),
        item(7, 8, b"\1\2\3"), item(8, 9, 1_205_495_800), item(9, 10, 864_000), item(10, 11, b"\0" * 8), item(11, 1, [])]))
    ends = b"\x30\x1e\x17\x0d200101000000Z\x17\x0d400101000000Z"
    body = b"\xa0\x03\x02\x01\x02\x02\x01\x07\x30\x00\x30\x00" + ends
    inner = b"\x30" + bytes([len(body)]) + body
    keep("kmip", "certificate", bytes([0]) + b"\x30" + bytes([len(inner)]) + inner)


def facts(provider):
    """Service, code and message of each fact."""
    lines = (REPOSITORY / f"crates/kms/facts/{provider}.txt").read_text().splitlines()
    return [[part.strip() for part in line.split(" | ")] for line in lines if not line.startswith("#")]


def reply(what, status, body, retry_after=None, is_json=True):
    """An answer over HTTP, as src/lib.rs takes it apart."""
    head = bytes([what, int(not is_json) | 2 * (retry_after is not None)]) + struct.pack(">H", status)
    if retry_after is not None:
        head += struct.pack(">Q", retry_after)
    return head + (body if isinstance(body, bytes) else json.dumps(body).encode())


def web():
    """Answers of Vault, Google, Azure, AWS: refusals out of the facts, successes, pages of others; found: rests of 2^64 s."""
    key = "A" * 43 + "="
    for number, (service, status, message, *_) in enumerate(facts("vault-transit")):
        what = 0 if service == "transit" else 3
        keep("vault", f"{service} {status} {number}", reply(what, int(status), {"errors": [message.replace("\\n", "\n").replace("\\t", "\t")]}))
    for what, data in enumerate([
        {"data": {"type": "aes256-gcm96", "derived": False, "exportable": True, "allow_plaintext_backup": True, "deletion_allowed": True}},
        {"data": {"ciphertext": "vault:v3:" + key}}, {"data": {"plaintext": key}},
        {"auth": {"client_token": "hvs.x", "lease_duration": MOST, "renewable": True}}, {"data": {"ttl": MOST, "renewable": False}},
        {"data": {"random_bytes": key}}, {"version": "1.15", "sealed": False},
        {"data": {"ttl": 60, "renewable": True, "period": None, "policies": ["root"]}},
    ]):
        keep("vault", f"success {what}", reply(what, 200, data))
    for number, (service, code, message, *_) in enumerate(facts("gcp-kms")):
        status, word, *more = code.split()
        detail = [{"reason": more[1]}] if more[:1] == ["reason"] else [{"violations": [{"type": more[1]}]}] if more else []
        body = {"error": {"code": int(status), "status": word, "message": message, "details": detail}}
        if status.isdigit() and number % 2 == 0:
            keep("gcp", f"{service} {word} {number}", reply(number % 4, int(status), body))
    version = "projects/p-1/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/3"
    keep("gcp", "key", reply(0, 200, {
        "name": "k", "purpose": "ENCRYPT_DECRYPT", "rotationPeriod": "7776000s", "nextRotationTime": "2027-01-15T08:00:00Z",
        "destroyScheduledDuration": "86400s", "primary": {"name": version, "state": "ENABLED", "protectionLevel": "EXTERNAL_VPC"}}))
    keep("gcp", "key destroyed", reply(0, 200, {"name": "k", "purpose": "ENCRYPT_DECRYPT", "primary": {
        "name": version, "state": "DESTROY_SCHEDULED", "destroyTime": "2027-01-15T08:00:00Z"}}))
    keep("gcp", "encrypted", reply(1, 200, {"name": version, "ciphertext": "", "ciphertextCrc32c": "0", "verifiedPlaintextCrc32c": True}))
    zeros = "A" * 43 + "="
    keep("gcp", "decrypted", reply(2, 200, {"plaintext": zeros, "plaintextCrc32c": str(0x8A9136AA)}))
    keep("gcp", "random", reply(3, 200, {"data": zeros, "dataCrc32c": str(0x8A9136AA)}))
    for delay in ["1e19s", "1e400s", "-1s", "NaNs", "3.5s"]:
        keep("gcp", "found 19 delay " + delay, reply(0, 429, {"error": {
            "code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": delay}]}}))
    for number, (service, code, message, *_) in enumerate(facts("azure-keyvault")):
        status, word, *more = code.split()
        if not status.isdigit():
            continue
        if service == "vault":
            inner = {"innererror": {"code": more[0]}} if more else {}
            keep("azure", f"{word} {number}", reply(1, int(status), {"error": {"code": word, "message": message, **inner}}))
        elif more and more[0].isdigit():
            keep("azure", f"entra {more[0]}", reply(3, int(status), {
                "error": word, "error_description": f"AADSTS{more[0]}: {message} Trace ID: 1", "error_codes": [int(more[0])]}))
    keep("azure", "key", reply(1, 200, {
        "key": {"kid": "https://v.vault.azure.net/keys/app-root/" + "0" * 32, "kty": "RSA", "key_ops": ["wrapKey", "unwrapKey"]},
        "attributes": {"enabled": True, "nbf": 1, "exp": 4_000_000_000, "recoveryLevel": "Purgeable", "exportable": True}}))
    keep("azure", "rotation", reply(0, 200, {"lifetimeActions": [{
        "trigger": {"timeAfterCreate": "P90D"}, "action": {"type": "Rotate"}}], "attributes": {"expiryTime": "P1Y"}}))
    for number, (service, code, message, *_) in enumerate(facts("aws-kms")):
        status, *word = code.split()
        if service == "kms" and word and number % 2 == 0:
            keep("aws", f"{word[0]} {number}", reply(number // 2 % 2, int(status), {"__type": word[0], "message": message}))
    arn = "arn:aws:kms:eu-west-1:111122223333:key/k"
    keep("aws", "decrypted", reply(0, 200, {"KeyId": arn, "Plaintext": key, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}))
    keep("aws", "described", reply(1, 200, {"KeyMetadata": {
        "KeyId": "k", "Arn": arn, "KeyUsage": "ENCRYPT_DECRYPT", "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "KeyState": "Enabled",
        "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": 1.8e9, "Origin": "EXTERNAL", "KeyManager": "AWS",
        "MultiRegionConfiguration": {"MultiRegionKeyType": "REPLICA", "PrimaryKey": {"Arn": arn, "Region": "eu-west-1"}}}}))
    keep("aws", "pending", reply(1, 200, {"KeyMetadata": {
        "KeyId": "k", "KeyUsage": "ENCRYPT_DECRYPT", "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "KeyState": "PendingDeletion",
        "DeletionDate": 1.8e9}}))
    for target in ["vault", "gcp", "azure", "aws"]:
        keep(target, "page of a proxy", reply(0, 403, b"<html>Forbidden</html>", is_json=False))
        keep(target, "found 19 rest", reply(0, 429, {"errors": ["slow down"]}, retry_after=MOST))


def configurations():
    """Settings of providers."""
    vault = "https://app.vault.azure.net"
    for number, (kind, config) in enumerate([
        ("file", {"path": "/etc/colcrypt/root.key"}),
        ("vault-transit", {"address": "https://vault.example:8200", "mount": "transit", "namespace": "a/b",
                           "auth": {"method": "approle", "role_id": "r", "secret_id_file": "/s"}}),
        ("vault-transit", {"address": "http://127.0.0.1:8200", "auth": {"method": "token", "token_file": "/t"}}),
        ("vault-transit", {"address": "https://v", "auth": {"method": "kubernetes", "role": "db"}}),
        ("aws-kms", {"region": "eu-west-1", "endpoint": "http://127.0.0.1:1/", "profile": "db", "use_fips": True}),
        ("gcp-kms", {"endpoint": "http://127.0.0.1:1/", "credentials_file": "/g.json", "generator": "projects/p-1/locations/l"}),
        ("azure-keyvault", {"vault": vault, "auth": {
            "method": "client-secret", "tenant_id": "t", "client_id": "c", "client_secret_file": "/s"}}),
        ("azure-keyvault", {"vault": vault, "auth": {"method": "managed-identity", "client_id": "a"}}),
        ("kmip", {"address": "kmip.example.org", "ca_file": "/ca", "certificate_file": "/c", "private_key_file": "/k",
                  "username": "u", "password_file": "/p"}),
        ("pkcs11", {"module": "/usr/lib/softhsm/libsofthsm2.so", "slots": [{"label": "colcrypt"}], "pin_file": "/p"}),
        ("pkcs11", {"module": "/nowhere.so", "slots": [{"serial": "0123456789abcdef"}], "pin_env": "PIN", "mechanism": "aes-gcm"}),
        ("none", {}), ("file", "k"), ("file", {"path": "k"}),
    ]):
        keep("config", f"{kind} {number}", bytes([KINDS.index(kind)]) + json.dumps(config).encode())
    for name, text in {
        "found 23 secret as a name": '{"path": "/k", "hunter2-hunter2": 1}', "found 23 control": '{"path": "/k", "p\\u0007th": 1}',
        "found 23 sentence": '{"path": "/k", "x`, expected `x": 1}', "found 23 float": '{"path": "/k", "n": 0.1234567890123456789}',
        "token": '{"path": "/k", "token": "hunter2"}', "nested": '{"path": {"path": [1, {"a": "hvs.x"}]}}',
    }.items():
        keep("config", name, bytes([KINDS.index("file")]) + text.encode())
    for number in range(3):
        keep("config", f"found 20 module {number}", bytes([KINDS.index("pkcs11")]) + json.dumps({
            "module": f"/nowhere/{number}.so", "slots": [{"label": "t"}], "pin_file": "/p"}).encode())


def escrow():
    """Shares of the standard's vectors, good and bad, and a dump. Their record was made by a ceremony, and is kept."""
    for name, shares, *_ in json.loads((REPOSITORY / "tests/vectors/slip39.json").read_text()):
        for number, share in enumerate(shares[:2]):
            keep("escrow", f"share {name} {number}", b"\0" + share.encode())
    keyring, seal = "11111111-1111-1111-1111-111111111111", "00" * 112
    keep("escrow", "dump", b"\2" + "".join(f"COPY colcrypt.{table} FROM stdin;\n{rows}\\.\n" for table, rows in [
        ("provider (provider_id, name, kind, config, created_at)", "a\tlocal\tfile\t{\"path\": \"/k\"}\tnow\n"
         "b\te\tescrow\t{\"recipient\": \"colcrypt-escrow-1:3b6af977b9800d1524dbf61c34aa7b83521d791419353500f52cc817c617280e:5decd603c705\"}\tnow\n"),
        ("keyring (keyring_id, name, dek_wrap)", f"{keyring}\ta\\tring\taes-256-gcm\n"),
        ("kek_version (keyring_id, version, kcv, destroyed_at)", f"{keyring}\t1\t72504b4d8f\t\\N\n{keyring}\t2\t72504b4d8f\tlong ago\n"),
        ("kek_copy (keyring_id, version, preference, provider_id, wrapped)", f"{keyring}\t1\t1\ta\t\\\\x00\n{keyring}\t1\t2\tb\t\\\\x{seal}\n"),
        ("key (key_id, name, keyring_id, suite)", f"77\tk\t{keyring}\taes-256-gcm\n"),
        ("key_version (key_id, version, kek_version, wrapped, kcv, destroyed_at)", f"77\t1\t1\t\\\\x{seal}\t72504b4d8f\t\\N\n"),
    ]).encode())


def search():
    """Patterns with a value, values for each step of a normaliser, pairs of numbers, ranges."""
    patterns = [("%nan%", "banana"), ("ban_na", "BANANA"), ("%i%stan_ul", "İstanbul"), ("100\\%", "100%"), ("%ΑΣ", "Οδυσσέας ΑΣ"), ("", "")]
    for number, (pattern, value) in enumerate(patterns):
        for settings in (1, 4):
            pattern_bytes = pattern.encode()
            keep("search", f"pattern {number} {settings}", bytes([0, settings, len(pattern_bytes)]) + pattern_bytes + value.encode())
    for step, value in enumerate(["ﬁ ＡＢ①", "Straße ΣΑΣ", "Él Niño", "\u3000 a ", "+49 (0) ٣", "DE89 é!", " Ada@EXAMPLE.org "]):
        keep("search", f"step {step}", bytes([1, step]) + value.encode())
    # Not in normal form before a space that compatibility makes was trimmed.
    keep("search", "found email space", bytes([1, 6]) + "\ufe70a@b".encode())
    for number, (one, other) in enumerate([("1.50", "1.5"), ("-0.001", "NaN"), ("Infinity", "1" + "0" * 90)]):
        keep("search", f"numbers {number}", bytes([2, len(one)]) + one.encode() + other.encode())
    for number, spec in enumerate([(7, 0, 4, 5), (9, 32, 4, 6), (0, 0, 4, 16), (3, 24, 4, 10), (10, 25, 4, 3)]):
        keep("search", f"range {number}", bytes([3, *spec]) + struct.pack(">QQQ", 2**63 - 9, 2**63 + 77, 2**63 + 5))


golden()
documents()
frames()
kmip()
web()
configurations()
escrow()
search()
