// A list of strings as node-postgres binds it, as text without a type too: what lists.py does, and prints.

const { Client } = require("pg");

const [host, database, id] = process.argv.slice(2);
const TAGS = ["a", "b, c", 'd"e'];

async function main() {
  const client = new Client({ host, database, user: "postgres" });
  await client.connect();
  const answer = async (table, parameter) => {
    const insert = `INSERT INTO ${table} VALUES ($1, encrypt_col(${parameter}, 'k', row_context($1::int)))`;
    try {
      await client.query(insert, [Number(id), TAGS]);
      return null;
    } catch (error) {
      return [error.code, error.message, error.detail ?? null, error.hint ?? null];
    }
  };
  const said = {
    loose: await answer("loose", "$2"),
    enforced: await answer("enforced", "$2"),
  };
  said.cast = await answer("enforced", "$2::text[]");
  await client.end();
  console.log(JSON.stringify(said));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
