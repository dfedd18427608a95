#!/usr/bin/env python3
"""Opens an escrow's copy of a key encryption key, and a key under it, without colcrypt.

    python3 escrow_reader.py KEYRING KEK_VERSION SEALED [KEY_ID KEY_VERSION SUITE WRAPPED] < shares

Shares come on standard input, one a line. KEYRING is colcrypt.keyring.keyring_id; SEALED is the escrow's
colcrypt.kek_copy.wrapped; KEY_ID (a bigint), SUITE and WRAPPED are of colcrypt.key and colcrypt.key_version: all of them
are in a dump. Prints the key encryption key, or the data encryption key if its arguments are given, in hexadecimal
digits: format_reader.py takes the latter. Needs the packages `cryptography` and `shamir-mnemonic`.
"""
import hashlib
import hmac
import sys
import uuid

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from shamir_mnemonic import combine_mnemonics

KEM, SUITE = b"KEM\0\x20", b"HPKE\0\x20\0\x01\0\x02"  # X25519, HKDF-SHA256, AES-256-GCM
SUITES = {"aes-256-gcm": 1, "xaes-256-gcm": 2}


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def extract(suite, salt, label, ikm=b""):
    return mac(salt, b"HPKE-v1", suite, label, ikm)


def expand(suite, prk, label, info, length):
    return mac(prk, length.to_bytes(2, "big"), b"HPKE-v1", suite, label, info, b"\1")[:length]


def hpke_open(private, info, aad, sealed):
    """RFC 9180, base mode, one message."""
    own = X25519PrivateKey.from_private_bytes(private)
    public = own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    enc, text = sealed[:32], sealed[32:]
    prk = extract(KEM, b"", b"eae_prk", own.exchange(X25519PublicKey.from_public_bytes(enc)))
    shared = expand(KEM, prk, b"shared_secret", enc + public, 32)
    context = b"\0" + extract(SUITE, b"", b"psk_id_hash") + extract(SUITE, b"", b"info_hash", info)
    secret = extract(SUITE, shared, b"secret")
    key, nonce = expand(SUITE, secret, b"key", context, 32), expand(SUITE, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, text, aad)


def unhex(text):
    return bytes.fromhex(text.replace("\\x", "", 1))


if __name__ == "__main__":
    if len(sys.argv) not in (4, 8):
        sys.exit(__doc__)
    escrow_key = combine_mnemonics([line.strip() for line in sys.stdin if line.strip()])
    kek_id = uuid.UUID(sys.argv[1]).bytes + int(sys.argv[2]).to_bytes(4, "big")
    key = hpke_open(escrow_key, b"colcrypt escrow 1", b"colcrypt kek 1" + kek_id, unhex(sys.argv[3]))
    if len(sys.argv) == 8:
        wrapped = unhex(sys.argv[7])
        dek_id = (int(sys.argv[4]) % 2**64).to_bytes(8, "big") + int(sys.argv[5]).to_bytes(4, "big") + bytes([SUITES[sys.argv[6]]])
        if len(wrapped) == 40:  # AES-KWP, where the keyring says so
            key = aes_key_unwrap_with_padding(key, wrapped)
        else:
            key = AESGCM(key).decrypt(wrapped[:12], wrapped[12:], b"colcrypt dek 1" + kek_id + dek_id)
    print(key.hex())
