// Look-ups of node-postgres' over access views with search indexes, as prepared statements: search_node.js HOST DATABASE WAY.

const assert = require("node:assert");
const { Client } = require("pg");

const [host, database, way] = process.argv.slice(2);

async function ids(client, name, text, values) {
  return (await client.query({ name, text, values })).rows.map((row) => Number(row.id));
}

const ways = {
  async get(client) {
    const text = "SELECT id FROM person_access WHERE email = $1";
    // Often enough for a plan that is made once for all values.
    for (let n = 1; n <= 12; n += 1) {
      assert.deepEqual(await ids(client, "get", text, [`user${n}@example.com`]), [n]);
    }
    const any = "SELECT id FROM person_access WHERE email = ANY($1) ORDER BY id";
    assert.deepEqual(await ids(client, "any", any, [["user5@example.com", "user9@example.com"]]), [5, 9]);
  },
  async unique(client) {
    const text = "INSERT INTO person_access (email, name, born) VALUES ($1, 'Twin', '2000-01-01')";
    const failed = await client.query(text, ["user78@example.com"]).catch((error) => error);
    assert.equal(failed.code, "23505");
    assert.match(failed.constraint, /email/);
  },
  async icontains(client) {
    const text = "SELECT id FROM person_access WHERE name ILIKE $1";
    for (let n = 1; n <= 12; n += 1) assert.deepEqual(await ids(client, "ilike", text, ["%RARE nam%"]), [4321]);
  },
  async dates(client) {
    const text = "SELECT id, born::text FROM person_access WHERE born BETWEEN $1 AND $2";
    for (let n = 1; n <= 12; n += 1) {
      const { rows } = await client.query({ name: "dates", text, values: ["1970-03-01", "1970-03-31"] });
      assert(rows.length > 0 && rows.every((row) => row.born.startsWith("1970-03")));
    }
  },
  async join(client) {
    const text =
      "SELECT p.id FROM subscription_access s JOIN person_access p ON p.email = s.email WHERE s.topic = $1";
    for (let n = 1; n <= 12; n += 1) assert.deepEqual(await ids(client, "join", text, [`topic ${n}`]), [n]);
  },
};

async function main() {
  const client = new Client({ host, database, user: "postgres" });
  await client.connect();
  await ways[way](client);
  await client.end();
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
