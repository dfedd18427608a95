"""Look-ups of SQLAlchemy's over access views with search indexes: search_sqlalchemy.py HOST DATABASE WAY."""

import sys
from datetime import date

from sqlalchemy import BigInteger, create_engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, foreign, mapped_column, relationship

host, database, way = sys.argv[1:]
engine = create_engine(f"postgresql+psycopg://postgres@/{database}?host={host}")


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "person_access"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
    born: Mapped[date]


class Subscription(Base):
    __tablename__ = "subscription_access"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    email: Mapped[str]
    topic: Mapped[str]
    person: Mapped[Person] = relationship(lambda: Person, primaryjoin=lambda: Person.email == foreign(Subscription.email))


def ids(session, condition):
    return session.scalars(select(Person.id).where(condition).order_by(Person.id)).all()


def get(session):
    assert session.scalars(select(Person).where(Person.email == "user77@example.com")).one().id == 77
    assert ids(session, Person.email.in_(["user5@example.com", "user9@example.com"])) == [5, 9]


def unique(session):
    session.add(Person(email="user78@example.com", name="Twin", born=date(2000, 1, 1)))
    try:
        session.flush()
    except IntegrityError as error:
        assert "email" in error.orig.diag.constraint_name
    else:
        raise AssertionError("there are two of one address")


def icontains(session):
    assert ids(session, Person.name.icontains("RARE nam")) == [4321]
    assert ids(session, Person.name.ilike("%rare nam%")) == [4321]
    assert ids(session, Person.name.contains("Rare")) == [4321]


def dates(session):
    first, last = date(1970, 3, 1), date(1970, 3, 31)
    found = session.scalars(select(Person).where(Person.born.between(first, last))).all()
    everybody = session.scalar(select(func.count()).select_from(Person))
    assert 0 < len(found) < everybody and all(first <= p.born <= last for p in found)


def join(session):
    found = select(Subscription.topic, Person.id).join(Subscription.person).where(Person.email == "user12@example.com")
    assert session.execute(found).all() == [("topic 12", 12)]
    assert session.scalars(select(Person.id).join(Subscription, Person.email == Subscription.email).where(Subscription.topic == "topic 13")).all() == [13]


with Session(engine) as session:
    globals()[way](session)
