// Integers as node-postgres binds them, as text without a type: writes one row a number into `numbers`, then reads the rows of
// all drivers. integers.js HOST DATABASE DRIVER NUMBER… prints what integers.py prints.

const { Client } = require("pg");

const [host, database, , ...numbers] = process.argv.slice(2);

async function main() {
  const client = new Client({ host, database, user: "postgres" });
  await client.connect();
  const insert =
    "INSERT INTO numbers VALUES ($1::bigint, encrypt_col($1::bigint, 'k', place_context('numbers.c', $1::bigint)))";
  for (const number of numbers) await client.query({ name: "insert", text: insert, values: [number] });
  let untyped = null;
  try {
    await client.query("SELECT place_context('numbers.c', $1)", [5]);
  } catch (error) {
    untyped = [error.code, error.hint];
  }
  const text = "SELECT id, decrypt_col(c, NULL::bigint, place_context('numbers.c', id)) AS value FROM numbers ORDER BY id";
  const read = {};
  for (const row of (await client.query(text)).rows) read[row.id] = row.value;
  await client.end();
  console.log(JSON.stringify({ read, untyped }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
