"""A list of strings as psycopg binds it, as text without a type: writes it into `loose` and into
`enforced`, whose column is registered for text[].

lists.py HOST DATABASE ID prints for each table what the server says, none where it takes it, and what a cast makes of it.
"""

import json
import sys

import psycopg

host, database, number = sys.argv[1:4]
TAGS = ["a", "b, c", 'd"e']


def answer(connection, table, parameter):
    insert = f"INSERT INTO {table} VALUES (%(id)s, encrypt_col({parameter}, 'k', row_context(%(id)s::int)))"
    try:
        connection.execute(insert, {"id": int(number), "tags": TAGS})
        return None
    except psycopg.Error as error:
        return [error.sqlstate, error.diag.message_primary, error.diag.message_detail, error.diag.message_hint]


with psycopg.connect(host=host, dbname=database, user="postgres", autocommit=True) as connection:
    said = {
        "loose": answer(connection, "loose", "%(tags)s"),
        "enforced": answer(connection, "enforced", "%(tags)s"),
    }
    said["cast"] = answer(connection, "enforced", "%(tags)s::text[]")
print(json.dumps(said))
