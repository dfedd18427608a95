#!/usr/bin/env python3
"""Makes colcrypt's search terms without colcrypt, from the standard library alone.

    python3 search_term.py KEY_FILE CASES_FILE

KEY_FILE (or /dev/stdin) holds the search key, raw or as 64 hexadecimal digits: a key never goes on a command line.
CASES_FILE is a JSON array of objects, which are printed with their "terms". Each has the index's "domain" (32
hexadecimal digits), "kind", "class" and, if any, "normalise" (names of steps) and "version" (of their rules, 1). Then

    equality    "value", "bits" (256)                       one term, in hexadecimal
    range       "value", or "low" and "high" (null: open)   what a row holds, or one of what a row between them holds
                "granularity", "sparsity", "levels"
    text        "value", or "like" and "escape"             what a row holds, or all of what a row that matches holds
                "letters" (3)

Values are strings: numbers in decimal digits; bytea and uuid in hexadecimal digits; date in days, time and timestamps
in microseconds since 2000 or midnight; interval as months, days and microseconds with a space between. Terms of range
and text are integers of 64 bits. Of long patterns all is taken, not the choice that a query makes. Letters are what
this Python's version of Unicode says of them.
"""
import hashlib
import hmac
import json
import math
import struct
import sys
import unicodedata

WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
EDGE = "\0"
AROUND_ZERO = ("int", "date", "timestamp", "timestamptz", "interval")


class NoForm(Exception):
    """A value without a normal form."""


def email(text):
    local, at, domain = unicodedata.normalize("NFKC", text).strip(WHITE_SPACE).rpartition("@")
    if not (local and domain):
        raise NoForm
    # What folding leaves may compose, and fold again.
    while domain != (folded := unicodedata.normalize("NFKC", domain.casefold())):
        domain = folded
    return local + at + domain


def kept(text, keep):
    if not (left := "".join(filter(keep, text))):
        raise NoForm
    return left


def unmarked(letter):
    return unicodedata.category(letter) != "Mn"


STEPS = {
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
    "casefold": str.casefold,
    "unaccent": lambda text: unicodedata.normalize("NFC", kept(unicodedata.normalize("NFD", text), unmarked)),
    "trim": lambda text: text.strip(WHITE_SPACE),
    "digits": lambda text: "".join(str(unicodedata.decimal(it)) for it in kept(text, str.isdecimal)),
    # Python does not tell which marks Unicode counts among the letters.
    "alnum": lambda text: kept(text, lambda it: it.isalpha() or it.isdecimal()),
    "email": email,
}


def number(text):
    """A numeric in its shortest form."""
    if text in ("NaN", "Infinity", "-Infinity"):
        return text
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text)
    whole, _, fraction = digits.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    shortest = whole + ("." + fraction if fraction else "")
    return shortest if shortest == "0" else sign + shortest


def span(text):
    months, days, micros = map(int, text.split())
    return (months * 30 + days) * 86_400_000_000 + micros


def one_float(text):
    value = float(text)
    return struct.pack(">Q", 0x7FF8 << 48) if math.isnan(value) else struct.pack(">d", value + 0.0)


CANONICAL = {
    "int": lambda it: int(it).to_bytes(8, "big", signed=True),
    "float": one_float,
    "numeric": lambda it: number(it).encode(),
    "text": str.encode,
    "bpchar": lambda it: it.rstrip(" ").encode(),
    "bytea": bytes.fromhex,
    "uuid": bytes.fromhex,
    "date": lambda it: int(it).to_bytes(4, "big", signed=True),
    "interval": lambda it: span(it).to_bytes(16, "big", signed=True),
}
for moment in ("timestamp", "timestamptz", "time"):
    CANONICAL[moment] = CANONICAL["int"]


def order(kind, text):
    """A number of 64 bits that does not fall where the value rises."""
    if kind in ("float", "numeric"):
        bits = int.from_bytes(one_float(text), "big")
        return bits ^ (2**64 - 1 if bits >> 63 else 1 << 63)
    if kind in ("text", "bpchar", "bytea", "uuid"):
        return int.from_bytes(CANONICAL[kind](text)[:8].ljust(8, b"\0"), "big")
    return (span(text) >> 10 if kind == "interval" else int(text)) + 2**63


def label(case):
    def name(text):
        return bytes([len(text)]) + text.encode()

    steps = case.get("normalise", [])
    return b"".join([
        b"CCST\1", bytes.fromhex(case["domain"]), name(case["kind"]), name(case["class"]),
        struct.pack(">HB", case.get("version", 1), len(steps)), *map(name, steps)])


def equality(mac, case):
    bits = case.get("bits", 256)
    tag, payload = 1, CANONICAL[case["class"]](case["value"])
    if case.get("normalise"):
        text = payload.decode()
        try:
            if len(payload) > 1 << 20:
                raise NoForm
            for step in case["normalise"]:
                text = STEPS[step](text)
            payload = text.encode()
        except NoForm:
            tag = 2
    term = int.from_bytes(mac(tag, payload), "big") >> (256 - bits)
    return (term << -bits % 8).to_bytes((bits + 7) // 8, "big").hex()


def nodes(case):
    """Intervals as a shift and what stands above it."""
    shifts = [case["granularity"] + case["sparsity"] * level for level in range(case["levels"])]
    bits = shifts[-1] + case["sparsity"]
    base = 2**63 - 2 ** (bits - 1) if case["class"] in AROUND_ZERO else 2**63 if case["class"] == "time" else 0

    def inside(text):
        return min(max(order(case["class"], text) - base, 0), 2**bits - 1)

    if "value" in case:
        return [(shift, inside(case["value"]) >> shift) for shift in shifts]
    low = 0 if case["low"] is None else inside(case["low"]) >> shifts[0] << shifts[0]
    high = 2**bits - 1 if case["high"] is None else inside(case["high"]) | (1 << shifts[0]) - 1

    def down(level, prefix):
        """What of an interval is between the bounds: all, nothing, or some of those below."""
        first, last = prefix << shifts[level], (prefix + 1 << shifts[level]) - 1
        if high < first or last < low:
            return []
        if low <= first and last <= high:
            return [(shifts[level], prefix)]
        below = range(prefix << case["sparsity"], prefix + 1 << case["sparsity"])
        return [node for child in below for node in down(level - 1, child)]

    return [node for prefix in range(1 << case["sparsity"]) for node in down(len(shifts) - 1, prefix)]


def fold(text, unaccent):
    """Letter by letter, whatever stands around."""
    folded = []
    for letter in text:
        for part in unicodedata.normalize("NFD", letter):
            folded += unicodedata.normalize("NFD", part.casefold())
    return "".join(
        "i" if it == "ı" else it for it in folded if it != "\u0307" and (unmarked(it) or not unaccent))


def literal(pattern, escape):
    """What stands literally in a pattern, with an edge where it starts or ends so."""
    pieces, at = [EDGE], 0
    while at < len(pattern):
        if pattern[at] == escape:
            pieces[-1], at = pieces[-1] + pattern[at + 1], at + 2
        elif pattern[at] in "%_":
            pieces, at = pieces + [""], at + 1
        else:
            pieces[-1], at = pieces[-1] + pattern[at], at + 1
    pieces[-1] += EDGE
    return pieces


def grams(case):
    size, unaccent = case.get("letters", 3), "unaccent" in case.get("normalise", [])
    pieces = literal(case["like"], case.get("escape", "\\")) if "like" in case else [EDGE + case["value"] + EDGE]
    pieces = [fold(piece, unaccent) for piece in pieces]
    found = {piece[at : at + size] for piece in pieces for at in range(len(piece) - size + 1)}
    if len(pieces) == 1 and len(pieces[0]) < size:
        found = {pieces[0]}
    return [gram.encode() for gram in found]


def terms(key, case):
    start = hmac.new(key, label(case), hashlib.sha256)

    def mac(tag, payload):
        here = start.copy()
        here.update(bytes([tag]) + payload)
        return here.digest()

    if case["kind"] == "equality":
        return equality(mac, case)
    if case["kind"] == "range":
        macs = [mac(4, struct.pack(">BQ", *node)) for node in nodes(case)]
    else:
        macs = [mac(3, gram) for gram in grams(case)]
    return sorted(struct.unpack(">q", found[:8])[0] for found in macs)


def main():
    with open(sys.argv[1], "rb") as file:
        key = file.read()
    key = key if len(key) == 32 else bytes.fromhex(key.decode())
    if len(key) != 32:
        sys.exit("a search key has 32 bytes")
    with open(sys.argv[2], encoding="utf-8") as file:
        cases = json.load(file)
    print("[\n" + ",\n".join(json.dumps({**case, "terms": terms(key, case)}) for case in cases) + "\n]")


if __name__ == "__main__":
    main()
