"""An application on psycopg: writes and reads its own rows of `people` by prepared statements until its stdin ends.

client.py HOST DATABASE OWNER. At the end it prints how many operations it did, which failed, and what its rows hold.
"""

import json
import sys
import threading

import psycopg
from psycopg.rows import dict_row

host, database, owner = sys.argv[1], sys.argv[2], int(sys.argv[3])
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

COLUMNS = ["id", "ssn", "owner", "name"]
operations, failures, rows = 0, [], {}


def run(connection, sql, *parameters):
    global operations
    operations += 1
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters, prepare=True)
            return cursor.fetchall()
    except psycopg.Error as error:
        failures.append(f"{sql}: {error.sqlstate} {error}")
        return []


with psycopg.connect(host=host, dbname=database, user="postgres", autocommit=True, row_factory=dict_row) as connection:
    number = 0
    while not ended.is_set():
        number += 1
        text = f"psycopg {owner} {number}"
        for row in run(connection, "INSERT INTO people (ssn, owner, name) VALUES (%s, %s, 'new') RETURNING id", text, owner):
            rows[row["id"]] = text
        if not rows:
            continue
        chosen = list(rows)[number % len(rows)]
        changed = run(connection, "UPDATE people SET ssn = %s WHERE id = %s RETURNING ssn", text + "'", chosen)
        if changed:
            rows[chosen] = changed[0]["ssn"]
        read = run(connection, "SELECT * FROM people WHERE id = %s", chosen)
        if [list(row) for row in read] != [COLUMNS] or read[0]["ssn"] != rows[chosen]:
            failures.append(f"row {chosen} reads {read}, not {rows[chosen]}")
        if number % 5 == 0 and run(connection, "DELETE FROM people WHERE id = %s RETURNING id", chosen):
            del rows[chosen]

print(json.dumps({"operations": operations, "failures": failures, "rows": {str(id): text for id, text in rows.items()}}))
