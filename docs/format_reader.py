#!/usr/bin/env python3
"""Reads one colcrypt value without colcrypt; docs/format.md says what the bytes mean.

    python3 format_reader.py DEK_FILE VALUE_HEX [CONTEXT_HEX]

DEK_FILE (or /dev/stdin) holds the key, raw or as 64 hexadecimal digits: a key never goes on a command
line. VALUE_HEX may be - to read it from standard input. Needs only the package `cryptography`.
"""
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


def part(data, start, end):
    """A slice that Python does not shorten where bytes are missing."""
    if not 0 <= start <= end <= len(data):
        raise ValueError("bytes are missing")
    return data[start:end]


def unpack(packed):
    """Method 1, the length of the plaintext, an LZ4 block: literals, then a copy from what was written."""
    if part(packed, 0, 1) != b"\1":
        raise ValueError(f"unknown compression method {packed[0]}")
    length, block, at, out = int.from_bytes(part(packed, 1, 5), "big"), packed[5:], 0, bytearray()

    def count(nibble):  # 15 and more: bytes follow, the last is the first below 255
        nonlocal at
        more = nibble == 15
        while more:
            byte, at = part(block, at, at + 1)[0], at + 1
            nibble, more = nibble + byte, byte == 255
        return nibble

    while True:
        token, at = part(block, at, at + 1)[0], at + 1
        literals = count(token >> 4)
        out, at = out + part(block, at, at + literals), at + literals
        if at == len(block):
            break
        distance, at = int.from_bytes(part(block, at, at + 2), "little"), at + 2
        copied = count(token & 15) + 4
        if not 0 < distance <= len(out) or len(out) + copied > length:
            raise ValueError("a copy from nowhere, or beyond the length")
        for _ in range(copied):
            out.append(out[-distance])
    if len(out) != length:
        raise ValueError(f"{len(out)} bytes instead of {length}")
    return bytes(out)


def number(varlena):
    """A numeric as it is stored: its length, a short header or a long one, then digits of base 10,000."""
    if part(varlena, 0, 1)[0] & 1:
        digits = part(varlena, 1, varlena[0] >> 1)
    else:
        size = int.from_bytes(part(varlena, 0, 4), "little")
        digits = part(varlena, 4, size >> 2) if size & 3 == 0 else b""
    words = struct.unpack(f"<{len(digits) // 2}H", digits)
    if not words or words[0] >= 0xC000 or (words[0] < 0x8000 and len(words) < 2):
        raise ValueError("no number, or one that JSON does not have")
    if words[0] & 0xC000 == 0x8000:
        minus, scale, weight, words = words[0] & 0x2000, words[0] >> 7 & 63, (words[0] & 63) - (words[0] & 64), words[1:]
    else:
        minus, scale, weight, words = words[0] & 0x4000, words[0] & 0x3FFF, (words[1] ^ 0x8000) - 0x8000, words[2:]
    if any(word > 9999 for word in words):
        raise ValueError("a digit of base 10,000 beyond 9,999")
    # As text: Python makes no number of more than 4,300 digits.
    digits = "".join(f"{word:04}" for word in words)
    point = 4 * (weight + 1)  # so many digits stand before it
    whole = digits[:max(point, 0)].ljust(max(point, 0), "0").lstrip("0") or "0"
    decimals = ("0" * -point + digits if point < 0 else digits[point:]).ljust(scale, "0")[:scale]
    return ("-" if minus else "") + whole + ("." + decimals if scale else "")


def container(stored):
    """A container of a jsonb: whether it is an object, a scalar, how many elements it has, and they themselves."""
    head = int.from_bytes(part(stored, 0, 4), "little")
    count, is_object, is_scalar = head & 0x0FFFFFFF, head & 0x20000000, head & 0x10000000
    size = count * (2 if is_object else 1)
    if bool(is_object) == bool(head & 0x40000000) or is_object and is_scalar:
        raise ValueError("neither an object nor an array")
    entries, data = struct.unpack(f"<{size}I", part(stored, 4, 4 + 4 * size)), stored[4 + 4 * size:]
    items, start = [], 0
    for entry in entries:
        end = entry & 0x0FFFFFFF if entry & 0x80000000 else start + (entry & 0x0FFFFFFF)
        if end < start:
            raise ValueError("an element ends before it begins")
        items.append((entry >> 28 & 7, start, end))
        start = end
    return is_object, is_scalar, count, items, data


def jsonb(stored):
    """JSON of a jsonb as PostgreSQL stores it (src/include/utils/jsonb.h). No recursion: documents may nest deeply."""
    def scalar(data, kind, start, end):
        if kind == 0:
            return json.dumps(part(data, start, end).decode(), ensure_ascii=False)
        return number(part(data, start + -start % 4, end)) if kind == 1 else {2: "false", 3: "true", 4: "null"}[kind]

    is_object, is_scalar, count, items, data = container(stored)
    if is_scalar:
        if count != 1:
            raise ValueError("not one scalar")
        return scalar(data, *items[0])
    out, levels = ["{" if is_object else "["], [(is_object, count, items, data, iter(range(count)))]
    while levels:
        is_object, count, items, data, rest = levels[-1]
        at = next(rest, None)
        if at is None:
            out.append("}" if is_object else "]")
            levels.pop()
            continue
        out.append(", " if at else "")
        if is_object:
            if items[at][0] != 0:
                raise ValueError("a key that is no text")
            out.append(scalar(data, *items[at]) + ": ")
        kind, start, end = items[count + at if is_object else at]
        if kind != 5:
            out.append(scalar(data, kind, start, end))
            continue
        is_object, is_scalar, count, items, data = container(part(data, start + -start % 4, end))
        if is_scalar:
            raise ValueError("a scalar's container inside another")
        out.append("{" if is_object else "[")
        levels.append((is_object, count, items, data, iter(range(count))))
    return "".join(out)


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


def parse(value):
    """What a value says of itself, and its parts. A header has exactly one spelling."""
    first, flags_and_type = part(value, 0, 1)[0], int.from_bytes(part(value, 1, 3), "big")
    if first not in (0x11, 0x12, 0x19, 0x1a):
        raise ValueError(f"not format 1 with suite 1 or 2: first byte {first:#04x}")
    has_context = bool(flags_and_type & 0x4000)
    if first & 8 and not has_context:
        raise ValueError("the form of a context that is not there")
    version, shift, at = 0, 0, 11
    while True:  # unsigned LEB128: seven bits a byte, lowest first
        byte, at = part(value, at, at + 1)[0], at + 1
        version, shift = version | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            break
        if shift == 35:
            raise ValueError("a version of more than five bytes")
    if not 0 < version < 2**32 or (byte == 0 and shift > 7):
        raise ValueError("not a version, or not its only spelling")
    type_ = flags_and_type & 0x3FFF
    if type_ == 0:
        start = at + 1
        at = start + part(value, at, start)[0]
        type_ = part(value, start, at).decode()
        if not type_:
            raise ValueError("a type without a name")
    elif type_ > 9999 and type_ != 13802:
        raise ValueError(f"unknown type {type_}")
    xaes = first & 7 == 2
    rest = at + (24 if xaes else 12)
    part(value, at, rest + 16)
    said = {"suite": "xaes-256-gcm" if xaes else "aes-256-gcm", "key_id": value[3:11].hex(), "version": version, "type": type_,
            "has_context": has_context, "compressed": bool(flags_and_type & 0x8000)}
    return said, value[:at], value[at:rest], value[rest:]


def read(dek, value, context=b""):
    said, header, nonce, sealed = parse(value)
    context = canonical(context) if value[0] & 8 else context
    if said["suite"] == "xaes-256-gcm":  # the first half of the nonce makes a key, the second half is its nonce
        dek = cmac(dek, b"\0\1X\0" + nonce[:12]) + cmac(dek, b"\0\2X\0" + nonce[:12])
    plaintext = AESGCM(dek).decrypt(nonce[-12:], sealed, header + context)
    plaintext = unpack(plaintext) if said["compressed"] else plaintext
    if said["type"] == 13802:
        text = jsonb(plaintext)
    else:
        try:
            text = plaintext.decode()
        except UnicodeDecodeError:
            text = None
    return {**said, "plaintext": plaintext.hex(), "text": text}


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        key = file.read()
    key = key if len(key) == 32 else bytes.fromhex(key.decode())
    hexes = [text if text != "-" else sys.stdin.read() for text in sys.argv[2:]]
    print(json.dumps(read(key, *(bytes.fromhex(text.strip().replace("\\x", "", 1)) for text in hexes))))
