#!/usr/bin/env python3
"""Reads one colcrypt value without colcrypt; docs/format.md says what the bytes mean.

    python3 format_reader.py DEK_FILE VALUE_HEX [CONTEXT_HEX]

DEK_FILE (or /dev/stdin) holds the key, raw or as 64 hexadecimal digits: a key never goes on a command
line. VALUE_HEX may be - to read it from standard input. Needs only the package `cryptography`.
"""
import json
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC


def cmac(key, block):
    mac = CMAC(AES(key))
    mac.update(block)
    return mac.finalize()


def read(dek, value, context=b""):
    if value[0] not in (0x11, 0x12):
        raise ValueError(f"not format 1 with suite 1 or 2: first byte {value[0]:#04x}")
    xaes, flags_and_type = value[0] == 0x12, int.from_bytes(value[1:3], "big")
    if flags_and_type & 0x8000:
        raise ValueError("compressed values are not defined yet")
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
    try:
        text = plaintext.decode()
    except UnicodeDecodeError:
        text = None
    return {"suite": "xaes-256-gcm" if xaes else "aes-256-gcm", "key_id": value[3:11].hex(),
            "version": version, "type": type_, "has_context": bool(flags_and_type & 0x4000),
            "plaintext": plaintext.hex(), "text": text}


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        key = file.read()
    key = key if len(key) == 32 else bytes.fromhex(key.decode())
    hexes = [text if text != "-" else sys.stdin.read() for text in sys.argv[2:]]
    print(json.dumps(read(key, *(bytes.fromhex(text.strip().replace("\\x", "", 1)) for text in hexes))))
