"""An application on SQLAlchemy's ORM: orm_sqlalchemy.py HOST DATABASE VIEW TABLE.

The view and the table by whichever names they have: everyday work, relationships, and reflection.
"""

import sys
import warnings
from contextlib import suppress

from sqlalchemy import BigInteger, Column, ForeignKey, MetaData, Table, Text
from sqlalchemy import create_engine, delete, func, insert, inspect, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.exc import IntegrityError, SAWarning
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, foreign, mapped_column, relationship
from sqlalchemy.types import UserDefinedType

host, database, VIEW, TABLE = sys.argv[1:]
warnings.simplefilter("error", SAWarning)
engine = create_engine(f"postgresql+psycopg://postgres@/{database}?host={host}")


class Ciphertext(UserDefinedType):
    """What the table holds. Nobody reads or writes it through SQLAlchemy."""

    cache_ok = True

    def get_col_spec(self, **_):
        return "colcrypt.ciphertext"


ischema_names["colcrypt.ciphertext"] = Ciphertext  # for reflection


class Tables(DeclarativeBase):
    """What create_all and migrations are about."""


class Views(DeclarativeBase):
    """What the application works with, and no tool makes or drops."""


class CustomerTable(Tables):
    __tablename__ = TABLE
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    iban: Mapped[str] = mapped_column(Ciphertext)


class Customer(Views):
    __tablename__ = VIEW
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str]
    iban: Mapped[str]
    orders: Mapped[list["Order"]] = relationship(
        lambda: Order,
        primaryjoin=lambda: Customer.id == foreign(Order.customer_id),
        back_populates="customer",
        cascade="all, delete-orphan",
    )


class Order(Tables):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey(CustomerTable.id))
    total: Mapped[int]
    customer: Mapped[Customer] = relationship(
        Customer, primaryjoin=lambda: foreign(Order.customer_id) == Customer.id, back_populates="orders"
    )


def reflect(view, table):
    """The view's columns, and what the table says of keys and NOT NULL."""
    inspector = inspect(engine)
    rules = {column["name"]: column for column in inspector.get_columns(table)}
    key = inspector.get_pk_constraint(table)["constrained_columns"]
    declared = [Column(name, rules[name]["type"], primary_key=True) for name in key]
    reflected = Table(view, MetaData(), *declared, autoload_with=engine)
    for column in reflected.c:
        column.nullable = rules[column.name]["nullable"]
    return reflected


def work():
    Tables.metadata.create_all(engine)
    with Session(engine) as session:
        ada = Customer(name="Ada", iban="A", orders=[Order(total=1), Order(total=2)])
        session.add(ada)
        session.flush()
        assert ada.id == 4
        # Several at once: one INSERT … SELECT … RETURNING.
        more = [Customer(name=f"more {n}", iban=f"M{n}") for n in range(3)]
        session.add_all(more)
        session.flush()
        assert [c.id for c in more] == [5, 6, 7]
        ada.iban = "A2"
        session.commit()
        session.expire_all()
        assert session.get(Customer, 4).iban == "A2"
        # RETURNING of whole entities.
        made = session.scalars(
            insert(Customer).returning(Customer, sort_by_parameter_order=True),
            [{"name": "x", "iban": "X"}, {"name": "y", "iban": "Y"}],
        ).all()
        assert [(c.id, c.iban) for c in made] == [(8, "X"), (9, "Y")]
        changed = update(Customer).where(Customer.iban.in_(["X", "Y"])).values(iban=func.lower(Customer.iban))
        assert sorted(session.scalars(changed.returning(Customer.iban))) == ["x", "y"]
        new = upsert(Customer).values([{"id": 8, "name": "x", "iban": "X3"}, {"id": 20, "name": "z", "iban": "Z"}])
        session.execute(new.on_conflict_do_update(index_elements=[Customer.id], set_={"iban": new.excluded.iban}))
        session.commit()
        assert session.scalars(select(Customer.iban).where(Customer.id.in_([8, 20])).order_by(Customer.id)).all() == ["X3", "Z"]
        assert session.execute(delete(Customer).where(Customer.iban == "Z")).rowcount == 1
        # Across the relationship, in both directions.
        totals = select(func.sum(Order.total)).join(Order.customer).where(Customer.iban == "A2")
        assert session.scalar(totals) == 3
        assert session.scalars(select(Order).order_by(Order.id)).first().customer.iban == "A2"
        locked = session.scalars(select(Customer).where(Customer.id == 4).with_for_update()).one()
        locked.orders.pop(0)
        session.commit()
        assert session.scalar(select(func.count()).select_from(Order)) == 1
        session.delete(session.get(Customer, 4))
        session.commit()
        assert session.scalar(select(func.count()).select_from(Order)) == 0
        with suppress(IntegrityError):
            session.add(Order(customer_id=99, total=1))
            session.commit()
            raise AssertionError("the table's key refers to nobody")


def reflection():
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {TABLE} ADD COLUMN note text NOT NULL DEFAULT ''"))
        connection.execute(select(func.colcrypt.create_access_view(TABLE)))
    customer = reflect(VIEW, TABLE)
    assert customer.primary_key.columns.keys() == ["id"]
    assert {c.name for c in customer.c if not c.nullable} == {"id", "name", "iban", "note"}
    with engine.begin() as connection:
        made = connection.execute(insert(customer).values(name="reflected", iban="R", note="n"))
        assert made.inserted_primary_key == (10,)
        row = connection.execute(select(customer).where(customer.c.id == 10)).mappings().one()
        assert (row["iban"], row["note"]) == ("R", "n")
        # After rows with keys of their own: the sequence is the table's.
        connection.execute(insert(customer).values(id=30, name="own", iban="O", note=""))
        last = select(func.max(customer.c.id)).scalar_subquery()
        connection.execute(select(func.setval(func.pg_get_serial_sequence(TABLE, "id"), last)))
        assert connection.execute(insert(customer).values(name="next", iban="N", note="")).inserted_primary_key == (31,)


work()
reflection()
