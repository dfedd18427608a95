// An application on Sequelize: orm_sequelize.js HOST DATABASE VIEW TABLE.
// The view and the table by whichever names they have: everyday work, associations, and what is about tables.

const assert = require("node:assert/strict");
const { DataTypes, Sequelize } = require("sequelize");

const [host, database, VIEW, TABLE] = process.argv.slice(2);
const sequelize = new Sequelize(database, "postgres", "", {
  dialect: "postgres",
  host,
  logging: false,
  define: { timestamps: false },
});

const id = { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true };

// The view: what the application works with. It is never synchronized.
const Customer = sequelize.define(
  "Customer",
  { id, name: DataTypes.TEXT, iban: DataTypes.STRING(34) },
  { tableName: VIEW },
);

// The table: what the query interface and truncate are about.
const CustomerTable = sequelize.define("CustomerTable", { id, name: DataTypes.TEXT }, { tableName: TABLE });

// The association says the view, the constraint the table.
const Order = sequelize.define(
  "Order",
  { id, total: DataTypes.INTEGER, customerId: { type: DataTypes.BIGINT, references: { model: TABLE, key: "id" } } },
  { tableName: "orders" },
);
Order.belongsTo(Customer, { as: "customer", foreignKey: "customerId", constraints: false });
Customer.hasMany(Order, { as: "orders", foreignKey: "customerId", constraints: false });

async function work() {
  await Order.sync();
  const ada = await Customer.create({ name: "Ada", iban: "A", orders: [{ total: 1 }, { total: 2 }] }, { include: "orders" });
  assert.equal(ada.id, "4");
  const more = await Customer.bulkCreate([1, 2, 3].map((n) => ({ name: `more ${n}`, iban: `M${n}` })));
  assert.deepEqual(more.map((customer) => customer.id), ["5", "6", "7"]);
  await ada.update({ iban: "A2" });
  assert.equal((await Customer.findByPk(4)).iban, "A2");
  await Customer.upsert({ id: 5, name: "Bob", iban: "B" });
  await Customer.upsert({ id: 8, name: "Cid", iban: "C" });
  const both = await Customer.findAll({ where: { id: [5, 8] }, order: ["id"] });
  assert.deepEqual(both.map((customer) => customer.iban), ["B", "C"]);
  const [count, changed] = await Customer.update({ iban: "M" }, { where: { iban: ["M2", "M3"] }, returning: true });
  assert.deepEqual([count, changed.map((customer) => customer.iban)], [2, ["M", "M"]]);
  const [found, isNew] = await Customer.findOrCreate({ where: { iban: "A2" }, defaults: { name: "nobody" } });
  assert.deepEqual([found.id, isNew], ["4", false]);

  const order = await Order.findOne({ where: { total: 2 }, include: "customer" });
  assert.equal(order.customer.iban, "A2");
  assert.equal((await Customer.findOne({ where: { iban: "A2" }, include: "orders" })).orders.length, 2);
  await assert.rejects(Order.create({ customerId: 99, total: 1 }), { name: "SequelizeForeignKeyConstraintError" });
  await sequelize.transaction(async (transaction) => {
    const locked = await Customer.findByPk(4, { transaction, lock: transaction.LOCK.UPDATE });
    await Order.destroy({ where: { customerId: locked.id }, transaction });
    await locked.destroy({ transaction });
  });
  assert.equal(await Customer.count({ where: { name: "Ada" } }), 0);
}

async function tables() {
  await sequelize.getQueryInterface().addColumn(TABLE, "note", { type: DataTypes.TEXT, defaultValue: "none" });
  await sequelize.query("SELECT colcrypt.create_access_view(:table)", { replacements: { table: TABLE } });
  const columns = await sequelize.getQueryInterface().describeTable(VIEW);
  assert.deepEqual(Object.keys(columns), ["id", "name", "iban", "note"]);
  // A view tells no key: the model declares it.
  assert.equal(columns.id.primaryKey, false);
  await CustomerTable.destroy({ truncate: true, cascade: true, restartIdentity: true });
  assert.equal(await Customer.count(), 0);
  assert.equal((await Customer.create({ name: "first", iban: "F" })).id, "1");
}

async function main() {
  await work();
  await tables();
  await sequelize.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
