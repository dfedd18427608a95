#!/usr/bin/env python3
"""Writes golden.json: colcrypt's own vectors, made without colcrypt.

    python3 tests/vectors/make_golden.py > tests/vectors/golden.json

Follows docs/format.md with pyca/cryptography alone (OpenSSL's AES-GCM, CMAC and AES-KWP), and takes
XAES-256-GCM's key from the library's own SP 800-108 KDF rather than from the specification's unrolled
steps. Keys and nonces are SHAKE-128 of a label, so every run writes the same file.

Never change what is there: these values stand for data that exists. Only add.
"""
import hashlib
import json
import struct
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

SUITES = {"aes-256-gcm": (1, 12), "xaes-256-gcm": (2, 24)}


def fixed(label, length=32):
    """Bytes that are the same at every run."""
    return hashlib.shake_128(b"colcrypt golden " + label.encode()).digest(length)


def seal(suite, key, nonce, plaintext, aad):
    if suite == "xaes-256-gcm":
        kdf = KBKDFCMAC(AES, Mode.CounterMode, length=32, rlen=2, llen=None,
                        location=CounterLocation.BeforeFixed, label=None, context=None,
                        fixed=b"X\x00" + nonce[:12])
        key, nonce = kdf.derive(key), nonce[12:]
    return AESGCM(key).encrypt(nonce, plaintext, aad)


def leb128(number):
    out = b""
    while number > 127:
        out += bytes([number % 128 + 128])
        number //= 128
    return out + bytes([number])


def header(suite, key_id, version, type_, has_context, compressed, canonical=False):
    code, name = (type_, b"") if isinstance(type_, int) else (0, type_.encode())
    out = bytes([16 + SUITES[suite][0] + (8 if canonical else 0)])
    out += struct.pack(">H", code + (0x4000 if has_context else 0) + (0x8000 if compressed else 0))
    out += bytes.fromhex(key_id) + leb128(version)
    return out + (bytes([len(name)]) + name if name else b"")


def value(name, suite, version=1, type_=25, plaintext=b"", context=b"", dek=None, compressed=False,
          canonical=None):
    """canonical: the canonical form of the context, where that is what is authenticated."""
    dek = dek or fixed(f"dek {suite}")
    nonce = fixed(f"nonce {name}", SUITES[suite][1])
    key_id = fixed(f"key id {suite}", 8).hex()
    head = header(suite, key_id, version, type_, context != b"", compressed, canonical is not None)
    sealed = seal(suite, dek, nonce, plaintext, head + (context if canonical is None else canonical))
    return {"name": name, "suite": suite, "dek": dek.hex(), "key_id": key_id, "version": version,
            "type": type_, "context": context.hex(), "nonce": nonce.hex(),
            **({"compressed": True} if compressed else {}),
            **({} if canonical is None else {"canonical": True}),
            "plaintext": plaintext.hex(), "value": (head + nonce + sealed).hex()}


def lz4(literals, distance, copied, tail):
    """An LZ4 block of two sequences: literals and a copy of what lies so far back, then literals alone."""
    def token(first, second):
        more = b"".join(b"\xff" * (n // 255) + bytes([n % 255]) for n in (first - 15,) if n >= 0)
        return bytes([min(first, 15) << 4 | min(second, 15)]), more
    (head, more), (last, last_more) = token(len(literals), copied - 4), token(len(tail), 0)
    rest = copied - 4 - 15
    lengthened = b"\xff" * (rest // 255) + bytes([rest % 255]) if rest >= 0 else b""
    return head + more + literals + struct.pack("<H", distance) + lengthened + last + last_more + tail


def packed(literals, distance, copied, tail):
    """Method 1: the length of the plaintext and a block."""
    length = len(literals) + copied + len(tail)
    return b"\x01" + struct.pack(">I", length) + lz4(literals, distance, copied, tail)


# {"a": 1.50, "bc": [true, null, "x"]} by jsonb.h: a header, an entry for each key and value, then their bytes, numbers
# and containers at multiples of four.
JSONB = (struct.pack("<IIIII", 0x20000002, 0x80000001, 2, 0x10000000 | 11, 0x50000000 | 19)
         + b"abc\0" + struct.pack("<IHHH", 10 << 2, 0x8000 | 2 << 7, 1, 5000) + b"\0\0"
         + struct.pack("<IIII", 0x40000003, 0x80000000 | 0x30000000, 0x40000000, 1) + b"x")


def row_context(columns):
    out = b"\x01"
    for type_name, content in columns:
        out += bytes([len(type_name.encode())]) + type_name.encode()
        out += struct.pack(">I", 0xFFFFFFFF if content is None else len(content)) + (content or b"")
    return out


def canonical(columns, label=b""):
    """The columns are in their canonical form already: written out by hand below, and not computed."""
    return b"\x02" + bytes([len(label)]) + label + row_context(columns)[1:]


# Contexts and their canonical forms: label, columns, canonical columns.
CANONICAL = [
    (b"", [("int2", struct.pack(">h", -5))], [("int8", struct.pack(">q", -5))]),
    (b"", [("int4", struct.pack(">i", -5))], [("int8", struct.pack(">q", -5))]),
    (b"", [("int8", struct.pack(">q", -5))], [("int8", struct.pack(">q", -5))]),
    (b"customer.iban", [("int4", struct.pack(">i", 42))], [("int8", struct.pack(">q", 42))]),
    (b"customer.iban", [], []),
    (b"customer.iban", [("int4", None), ("text", b""), ("text", None)], [("int8", None), ("text", b""), ("text", None)]),
    # 12.3400: digits 12, 3400
    (b"l", [("numeric", struct.pack(">hhHhhh", 2, 0, 0, 4, 12, 3400))], [("numeric", struct.pack(">hhHhhh", 2, 0, 0, 2, 12, 3400))]),
    # 120000: digit 12, weight 1; 0.00; NaN; -0.000100
    (b"l", [("numeric", struct.pack(">hhHhh", 1, 1, 0, 0, 12))], [("numeric", struct.pack(">hhHhh", 1, 1, 0, 0, 12))]),
    (b"l", [("numeric", struct.pack(">hhHh", 0, 0, 0, 2))], [("numeric", struct.pack(">hhHh", 0, 0, 0, 0))]),
    (b"l", [("numeric", struct.pack(">hhHh", 0, 0, 0xC000, 0))], [("numeric", struct.pack(">hhHh", 0, 0, 0xC000, 0))]),
    (b"l", [("numeric", struct.pack(">hhHhh", 1, -1, 0x4000, 6, 1))], [("numeric", struct.pack(">hhHhh", 1, -1, 0x4000, 4, 1))]),
    (b"", [("bpchar", b"ab   "), ("bpchar", b"   "), ("bpchar", None)], [("text", b"ab"), ("text", b""), ("text", None)]),
    ("schlüssel".encode(), [("uuid", fixed("uuid", 16)), ("public.mood", b"happy")], [("uuid", fixed("uuid", 16)), ("public.mood", b"happy")]),
    (b"x" * 255, [("int2", struct.pack(">h", n)) for n in range(100)], [("int8", struct.pack(">q", n)) for n in range(100)]),
]


def context(label, columns):
    return b"\x02" + bytes([len(label)]) + label + row_context(columns)[1:] if label else row_context(columns)


def canonical_values():
    for suite in SUITES:
        for n, (label, columns, form) in enumerate(CANONICAL):
            name = f"{suite} canonical context {n}"
            yield value(name, suite, 1, 25, name.encode(), context(label, columns), canonical=canonical(form, label))


def values():
    yield from old_values()
    yield from canonical_values()


def old_values():
    row = row_context([("int4", struct.pack(">i", 42))])
    yield value("worked example", "aes-256-gcm", 1, 25, "Zoë".encode(), row, dek=bytes(range(32)))
    for suite in SUITES:
        for version in (1, 127, 128, 300, 2**32 - 1):
            for context in (b"", row):
                name = f"{suite} version {version}{' with context' if context else ''}"
                yield value(name, suite, version, 25, name.encode(), context)
        yield value(f"{suite} empty plaintext", suite)
        yield value(f"{suite} empty plaintext with context", suite, context=row)
        yield value(f"{suite} bytea", suite, 2, 17, bytes(range(256)))
        yield value(f"{suite} int4", suite, 2, 23, struct.pack(">i", -7))
        yield value(f"{suite} numeric 12.34", suite, 2, 1700, struct.pack(">hhhHhh", 2, 0, 0, 2, 12, 3400))
        yield value(f"{suite} uuid", suite, 2, 2950, fixed("uuid", 16))
        yield value(f"{suite} lowest type code", suite, 2, 1, b"x")
        yield value(f"{suite} highest type code", suite, 2, 9999, b"x")
        yield value(f"{suite} enum", suite, 2, "public.mood", b"happy")
        yield value(f"{suite} enum with context", suite, 300, "public.mood", b"happy", row)
        yield value(f"{suite} quoted type name", suite, 2, '"Büro"."Größe"', b"XL")
        yield value(f"{suite} longest type name", suite, 2**32 - 1, "t" * 255, b"x", row)
        yield value(f"{suite} long", suite, 2, 25, (b"0123456789abcdef" * 63) + b"tail")
        yield value(f"{suite} long context", suite, 2, 25, b"x", fixed("context", 1000))
        yield value(f"{suite} compressed", suite, 2, 25, packed(b"abc", 3, 400, b" the end"), compressed=True)
        yield value(f"{suite} compressed with context", suite, 2, 17, packed(bytes(range(100)), 100, 19, b"tail"), row,
                    compressed=True)
        yield value(f"{suite} jsonb as stored", suite, 2, 13802, JSONB)
        yield value(f"{suite} jsonb as sent", suite, 2, 3802, b'\x01{"a": 1.50}')


def kcv(key):
    mac = CMAC(AES(key))
    mac.update(bytes(16))
    return mac.finalize()[:5].hex()


def wrapped_deks():
    for number, suite in enumerate(SUITES, 1):
        for kek_version, version in ((1, 1), (3, 300), (2**32 - 1, 2**32 - 1)):
            name = f"{suite} {version}"
            keyring, key_id = fixed("keyring", 16), fixed(f"key id {suite}", 8)
            kek, dek = fixed(f"kek {kek_version}"), fixed(f"wrapped dek {name}")
            aad = (b"colcrypt dek 1" + keyring + struct.pack(">I", kek_version)
                   + key_id + struct.pack(">IB", version, number))
            nonce = fixed(f"wrap nonce {name}", 12)
            yield {"keyring": keyring.hex(), "kek_version": kek_version, "key_id": key_id.hex(),
                   "version": version, "suite": suite, "kek": kek.hex(), "kek_kcv": kcv(kek),
                   "dek": dek.hex(), "dek_kcv": kcv(dek), "aad": aad.hex(),
                   "aes-256-gcm": (nonce + AESGCM(kek).encrypt(nonce, dek, aad)).hex(),
                   "aes-kwp": aes_key_wrap_with_padding(kek, dek).hex()}


def wrapped_keks():
    for version in (1, 2, 2**32 - 1):
        keyring, root, kek = fixed("keyring", 16), fixed("root"), fixed(f"kek {version}")
        aad = b"colcrypt kek 1" + keyring + struct.pack(">I", version)
        nonce = fixed(f"kek nonce {version}", 12)
        yield {"keyring": keyring.hex(), "version": version, "root": root.hex(), "kek": kek.hex(),
               "kek_kcv": kcv(kek), "aad": aad.hex(),
               "wrapped": (nonce + AESGCM(root).encrypt(nonce, kek, aad)).hex()}


def row_contexts():
    for columns in (
        [],
        [("int4", struct.pack(">i", 42))],
        [("int8", struct.pack(">q", 42))],
        [("text", b"a"), ("text", b"bc")],
        [("text", b"ab"), ("text", b"c")],
        [("text", b"")],
        [("text", None)],
        [("uuid", fixed("uuid", 16)), ("timestamptz", struct.pack(">q", 0)), ("text", None)],
        [("public.mood", b"happy"), ('"Büro"."Größe"', b"XL")],
        [("t" * 255, b"x" * 300)],
    ):
        yield {"columns": [[name, None if content is None else content.hex()] for name, content in columns],
               "bytes": row_context(columns).hex()}


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    print(json.dumps({"values": list(values()), "wrapped_deks": list(wrapped_deks()),
                      "wrapped_keks": list(wrapped_keks()), "row_contexts": list(row_contexts())},
                     indent=1, ensure_ascii=False))
