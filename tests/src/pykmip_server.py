"""PyKMIP's engine and sessions behind a listener of our own, for tests.

PyKMIP's own main program speaks TLS 1.2 alone and starts processes that outlive a kill; all that judges a request is
PyKMIP's: its sessions, its engine, its operation policies, its SQLite database, and its SLUGS connector, which asks a
directory of users and groups who a client is. Started by pykmip.rs; commands come as lines of JSON on standard input,
and are carried out by PyKMIP's own client as the user `admin`.

usage: pykmip_server.py DIRECTORY PORT TLS-VERSION KMIP-VERSION…
"""
import http.server
import json
import logging
import os
import socket
import sqlite3
import ssl
import sys
import threading

from kmip.core import enums, policy
from kmip.core.factories import attributes
from kmip.core.messages import contents
from kmip.pie import client
from kmip.services.server import engine, session

directory, port, tls, *versions = sys.argv[1:]


def path(name):
    return os.path.join(directory, name)


class Users(http.server.BaseHTTPRequestHandler):
    """SLUGS: who is a user (users.json), and in which groups."""

    def do_GET(self):
        with open(path("users.json")) as file:
            users = json.load(file)
        parts = self.path.strip("/").split("/")
        known = len(parts) >= 2 and parts[1] in users
        body = json.dumps({"groups": users[parts[1]]} if known else {}).encode()
        self.send_response(200 if known else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Engine(engine.KmipEngine):
    """Counts requests, and gives a wrong key where the test says so."""

    def _process_operation(self, operation, payload):
        with open(path("requests.log"), "a") as log:
            log.write(f"{operation.name} {self._client_identity[0]}\n")
        return super()._process_operation(operation, payload)

    def _process_decrypt(self, payload):
        answer = super()._process_decrypt(payload)
        if os.path.exists(path("wrong-plaintext")):
            answer.data = bytes(byte ^ 1 for byte in answer.data)
        return answer


def admin():
    return client.ProxyKmipClient(hostname="127.0.0.1", port=port, cert=path("admin.pem"), key=path("admin.key"),
                                  ca=path("ca.pem"))


def create(name, active=True, uses=("ENCRYPT", "DECRYPT"), bits=256, policy="colcrypt", algorithm="AES"):
    names = attributes.AttributeFactory()
    with admin() as kmip:
        # The client adds both uses to what it is given, so the template is made here.
        kmip._build_key_attributes = lambda algorithm, length, _: [
            names.create_attribute(enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM, algorithm),
            names.create_attribute(enums.AttributeType.CRYPTOGRAPHIC_LENGTH, length),
            names.create_attribute(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK,
                                   [enums.CryptographicUsageMask[use] for use in uses]),
        ]
        key = kmip.create(enums.CryptographicAlgorithm[algorithm], bits, operation_policy_name=policy, name=name)
        if active:
            kmip.activate(key)
        return key


def activate(key):
    with admin() as kmip:
        kmip.activate(key)


def rename(key, name):
    attribute = attributes.AttributeFactory().create_attribute(enums.AttributeType.NAME, name, 0)
    with admin() as kmip:
        kmip.modify_attribute(unique_identifier=key, attribute=attribute)


def revoke(key, reason="CESSATION_OF_OPERATION"):
    with admin() as kmip:
        kmip.revoke(enums.RevocationReasonCode[reason], key)


def destroy(key):
    with admin() as kmip:
        kmip.destroy(key)


def copy(source, target):
    with kmip_engine._lock, sqlite3.connect(path(source)) as old, sqlite3.connect(path(target)) as new:
        old.backup(new)


def backup():
    copy("keys.db", "backup.db")


def restore():
    copy("backup.db", "keys.db")


COMMANDS = {act.__name__: act for act in (create, activate, rename, revoke, destroy, backup, restore)}


def obey():
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"ok": COMMANDS[command.pop("do")](**command)}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


logging.basicConfig(filename=path("server.log"), level=logging.INFO)
users = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Users)
threading.Thread(target=users.serve_forever, daemon=True).start()
slugs = ("auth:slugs", {"enabled": "True", "url": f"http://127.0.0.1:{users.server_port}/"})

kmip_engine = Engine(policy.read_policy_from_file(path("policy.json")), path("keys.db"))
kmip_engine._protocol_versions = [contents.ProtocolVersion(*map(int, version.split("."))) for version in versions]

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = context.maximum_version = ssl.TLSVersion[f"TLSv{tls.replace('.', '_')}"]
context.verify_mode = ssl.CERT_REQUIRED
context.load_verify_locations(path("ca.pem"))
context.load_cert_chain(path("server.pem"), path("server.key"))

listener = socket.create_server(("127.0.0.1", int(port)), backlog=128)
port = listener.getsockname()[1]
threading.Thread(target=obey, daemon=True).start()
print(json.dumps({"ok": port}), flush=True)

while True:
    connection, address = listener.accept()
    connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    name = f"{address[1]}"
    session.KmipSession(kmip_engine, connection, address, name, auth_settings=[slugs]).start()
