// An application on node-postgres: writes and reads its own rows of `people` by prepared statements until its stdin ends.
// client.js HOST DATABASE OWNER. At the end it prints how many operations it did, which failed, and what its rows hold.

const { Client } = require("pg");

const [host, database, owner] = process.argv.slice(2);
const COLUMNS = ["id", "ssn", "owner", "name"];
const failures = [];
const rows = new Map();
let operations = 0;
let ended = false;
process.stdin.on("end", () => (ended = true));
process.stdin.resume();

// A named statement is prepared once a connection and executed by its name.
async function run(client, name, text, values) {
  operations += 1;
  try {
    return (await client.query({ name, text, values })).rows;
  } catch (error) {
    failures.push(`${text}: ${error.code} ${error.message}`);
    return [];
  }
}

async function main() {
  const client = new Client({ host, database, user: "postgres" });
  await client.connect();
  for (let number = 1; !ended; number += 1) {
    const text = `node ${owner} ${number}`;
    const insert = "INSERT INTO people (ssn, owner, name) VALUES ($1, $2, 'new') RETURNING id";
    for (const row of await run(client, "insert", insert, [text, owner])) rows.set(row.id, text);
    if (rows.size === 0) continue;
    const chosen = [...rows.keys()][number % rows.size];
    const update = "UPDATE people SET ssn = $1 WHERE id = $2 RETURNING ssn";
    for (const row of await run(client, "update", update, [text + "'", chosen])) rows.set(chosen, row.ssn);
    const read = await run(client, "read", "SELECT * FROM people WHERE id = $1", [chosen]);
    if (read.length !== 1 || Object.keys(read[0]).join() !== COLUMNS.join() || read[0].ssn !== rows.get(chosen)) {
      failures.push(`row ${chosen} reads ${JSON.stringify(read)}, not ${rows.get(chosen)}`);
    }
    if (number % 5 === 0) {
      const gone = await run(client, "delete", "DELETE FROM people WHERE id = $1 RETURNING id", [chosen]);
      if (gone.length > 0) rows.delete(chosen);
    }
  }
  await client.end();
  console.log(JSON.stringify({ operations, failures, rows: Object.fromEntries(rows) }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
