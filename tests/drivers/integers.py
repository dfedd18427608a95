"""Integers as psycopg and asyncpg bind them: writes one row a number into `numbers`, then reads the rows of all drivers.

integers.py HOST DATABASE DRIVER NUMBER… The row's key and its value are the number. At the end it prints what it read, by key,
and what the server answers to a parameter without a type.
"""

import asyncio
import json
import sys

import asyncpg
import psycopg

host, database, driver = sys.argv[1:4]
numbers = [int(number) for number in sys.argv[4:]]
READ = "SELECT id, decrypt_col(c, NULL::bigint, place_context('numbers.c', id)) FROM numbers ORDER BY id"
UNTYPED = "SELECT place_context('numbers.c', {})"


def with_psycopg():
    # psycopg chooses smallint, integer or bigint by the number.
    with psycopg.connect(host=host, dbname=database, user="postgres", autocommit=True) as connection:
        for number in numbers:
            connection.execute(
                "INSERT INTO numbers VALUES (%(n)s, encrypt_col(%(n)s, 'k', place_context('numbers.c', %(n)s)))",
                {"n": number}, prepare=True,
            )
        try:
            connection.execute(UNTYPED.format("%s"), ["5"], prepare=True)
            untyped = None
        except psycopg.Error as error:
            untyped = [error.sqlstate, error.diag.message_hint]
        return connection.execute(READ).fetchall(), untyped


async def with_asyncpg():
    # asyncpg asks the server for each parameter's type.
    connection = await asyncpg.connect(host=host, database=database, user="postgres")
    insert = "INSERT INTO numbers VALUES ($1::bigint, encrypt_col($1::bigint, 'k', place_context('numbers.c', $1::bigint)))"
    for number in numbers:
        await connection.execute(insert, number)
    try:
        await connection.fetch(UNTYPED.format("$1"), 5)
        untyped = None
    except asyncpg.PostgresError as error:
        untyped = [error.sqlstate, error.hint]
    rows = await connection.fetch(READ)
    await connection.close()
    return [tuple(row) for row in rows], untyped


read, untyped = with_psycopg() if driver == "psycopg" else asyncio.run(with_asyncpg())
print(json.dumps({"read": {str(key): str(value) for key, value in read}, "untyped": untyped}))
