#!/usr/bin/env python3
"""Reads one colcrypt value without colcrypt; docs/format.md says what the bytes mean.

    python3 format_reader.py DEK_FILE VALUE_HEX [CONTEXT_HEX]

DEK_FILE (or /dev/stdin) holds the key, raw or as 64 hexadecimal digits: a key never goes on a command
line. VALUE_HEX may be - to read it from standard input. Needs only the package `cryptography`.
"""
import fractions
import json
import struct
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC


def cmac(key, block):
    mac = CMAC(AES(key))
    mac.update(block)
    return mac.finalize()


def unpack(packed):
    """Method 1, the length of the plaintext, an LZ4 block: literals, then a copy from what was written."""
    if packed[0] != 1:
        raise ValueError(f"unknown compression method {packed[0]}")
    length, block, at, out = int.from_bytes(packed[1:5], "big"), packed[5:], 0, bytearray()

    def count(nibble):  # 15 and more: bytes follow, the last is the first below 255
        nonlocal at
        more = nibble == 15
        while more:
            nibble, more, at = nibble + block[at], block[at] == 255, at + 1
        return nibble

    while at < len(block):
        token, at = block[at], at + 1
        literals = count(token >> 4)
        out += block[at:at + literals]
        at += literals
        if at < len(block):
            distance, at = int.from_bytes(block[at:at + 2], "little"), at + 2
            for _ in range(count(token & 15) + 4):
                out.append(out[-distance])
    if len(out) != length:
        raise ValueError(f"{len(out)} bytes instead of {length}")
    return bytes(out)


def number(digits):
    """A numeric as it is stored: a short header or a long one, then digits of base 10,000."""
    words = struct.unpack(f"<{len(digits) // 2}H", digits)
    if words[0] & 0xC000 == 0x8000:
        minus, scale, weight, words = words[0] & 0x2000, words[0] >> 7 & 63, (words[0] & 63) - (words[0] & 64), words[1:]
    else:
        minus, scale, weight, words = words[0] & 0x4000, words[0] & 0x3FFF, (words[1] ^ 0x8000) - 0x8000, words[2:]
    exact = sum(fractions.Fraction(word) * fractions.Fraction(10000) ** (weight - i) for i, word in enumerate(words))
    text = str(int(exact * 10**scale)).rjust(scale + 1, "0")
    return ("-" if minus else "") + (f"{text[:-scale]}.{text[-scale:]}" if scale else text)


def jsonb(stored):
    """JSON of a jsonb as PostgreSQL stores it (src/include/utils/jsonb.h)."""
    head, = struct.unpack_from("<I", stored)
    size = (head & 0x0FFFFFFF) * (2 if head & 0x20000000 else 1)
    entries, data = struct.unpack_from(f"<{size}I", stored, 4), stored[4 + 4 * size:]
    items, start = [], 0
    for entry in entries:
        end = entry & 0x0FFFFFFF if entry & 0x80000000 else start + (entry & 0x0FFFFFFF)
        kind, aligned = entry >> 28 & 7, data[start + -start % 4:end]
        items.append(json.dumps(data[start:end].decode(), ensure_ascii=False) if kind == 0 else
                     number(aligned[4:int.from_bytes(aligned[:4], "little") >> 2]) if kind == 1 else
                     jsonb(aligned) if kind == 5 else {2: "false", 3: "true", 4: "null"}[kind])
        start = end
    if head & 0x20000000:
        return "{" + ", ".join(": ".join(pair) for pair in zip(items, items[size // 2:])) + "}"
    return items[0] if head & 0x10000000 else "[" + ", ".join(items) + "]"


def canonical(context):
    """The form of a context that is authenticated where the value's flag 8 says so."""
    at, out = (1, b"\2\0") if context[0] == 1 else (2 + context[1], context[:2 + context[1]])
    while at < len(context):
        name, at = context[at + 1:at + 1 + context[at]], at + 1 + context[at]
        size, at = int.from_bytes(context[at:at + 4], "big"), at + 4
        content = None if size == 0xFFFFFFFF else context[at:at + size]
        at += len(content or b"")
        if name in (b"int2", b"int4", b"int8"):
            name, content = b"int8", content and int.from_bytes(content, "big", signed=True).to_bytes(8, "big", signed=True)
        elif name == b"bpchar":
            name, content = b"text", content and content.rstrip(b" ")
        elif name == b"numeric" and content:
            _, weight, sign, _ = struct.unpack(">hhHh", content[:8])
            digits = struct.unpack(f">{len(content) // 2 - 4}H", content[8:])
            decimals = "".join(f"{digit:04}" for digit in digits[weight + 1:]) if weight >= -1 else \
                "0000" * (-1 - weight) + "".join(f"{digit:04}" for digit in digits)
            content = struct.pack(">hhHh", len(digits), weight, sign, len(decimals.rstrip("0"))) + content[8:]
        out += bytes([len(name)]) + name + (b"\xff" * 4 if content is None else len(content).to_bytes(4, "big") + content)
    return out


def read(dek, value, context=b""):
    if value[0] not in (0x11, 0x12, 0x19, 0x1a):
        raise ValueError(f"not format 1 with suite 1 or 2: first byte {value[0]:#04x}")
    context = canonical(context) if value[0] & 8 else context
    xaes, flags_and_type = value[0] & 7 == 2, int.from_bytes(value[1:3], "big")
    version, shift, at = 0, 0, 11
    while True:  # unsigned LEB128: seven bits a byte, lowest first
        version |= (value[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if value[at - 1] < 0x80:
            break
    type_ = flags_and_type & 0x3FFF
    if type_ == 0:
        start, at = at + 1, at + 1 + value[at]
        type_ = value[start:at].decode()
    header, nonce = value[:at], value[at:at + (24 if xaes else 12)]
    if xaes:  # the first half of the nonce makes a key, the second half is its nonce
        dek = cmac(dek, b"\0\1X\0" + nonce[:12]) + cmac(dek, b"\0\2X\0" + nonce[:12])
    plaintext = AESGCM(dek).decrypt(nonce[-12:], value[at + len(nonce):], header + context)
    plaintext = unpack(plaintext) if flags_and_type & 0x8000 else plaintext
    try:
        text = jsonb(plaintext) if type_ == 13802 else plaintext.decode()
    except UnicodeDecodeError:
        text = None
    return {"suite": "xaes-256-gcm" if xaes else "aes-256-gcm", "key_id": value[3:11].hex(),
            "version": version, "type": type_, "has_context": bool(flags_and_type & 0x4000), "compressed": bool(flags_and_type & 0x8000),
            "plaintext": plaintext.hex(), "text": text}


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        key = file.read()
    key = key if len(key) == 32 else bytes.fromhex(key.decode())
    hexes = [text if text != "-" else sys.stdin.read() for text in sys.argv[2:]]
    print(json.dumps(read(key, *(bytes.fromhex(text.strip().replace("\\x", "", 1)) for text in hexes))))
