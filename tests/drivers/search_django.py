"""Look-ups of Django's over access views with search indexes: search_django.py HOST DATABASE WAY.

Each way is one that everybody writes; the server's side tells whether an index was used.
"""

import sys

import django
from django.conf import settings

host, database, way = sys.argv[1:]
settings.configure(
    INSTALLED_APPS=[],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.postgresql", "HOST": host, "NAME": database, "USER": "postgres"}
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from datetime import date

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models


class Person(models.Model):
    email = models.EmailField(unique=True)
    name = models.TextField()
    born = models.DateField()

    class Meta:
        app_label = "people"
        db_table = "person_access"
        managed = False


class Subscription(models.Model):
    person = models.ForeignKey(Person, models.CASCADE, to_field="email", db_column="email", db_constraint=False)
    topic = models.TextField()

    class Meta:
        app_label = "people"
        db_table = "subscription_access"
        managed = False


def get():
    assert Person.objects.get(email="user77@example.com").pk == 77
    assert not Person.objects.filter(email="nobody@example.com").exists()
    assert [p.pk for p in Person.objects.filter(email__in=["user5@example.com", "user9@example.com"]).order_by("pk")] == [5, 9]


def unique():
    twin = Person(email="user78@example.com", name="Twin", born=date(2000, 1, 1))
    try:
        twin.validate_unique()
    except ValidationError as error:
        assert list(error.message_dict) == ["email"], error
    else:
        raise AssertionError("the field's own check finds nothing")
    try:
        twin.save(force_insert=True)
    except IntegrityError as error:
        assert "email" in error.__cause__.diag.constraint_name, error.__cause__.diag.constraint_name
    else:
        raise AssertionError("there are two of one address")


def icontains():
    assert [p.pk for p in Person.objects.filter(name__icontains="RARE nam")] == [4321]
    assert [p.pk for p in Person.objects.filter(name__contains="Rare")] == [4321]
    assert [p.pk for p in Person.objects.filter(name__startswith="A Rare")] == [4321]


def dates():
    first, last = date(1970, 3, 1), date(1970, 3, 31)
    found = Person.objects.filter(born__range=(first, last)).order_by("born")
    assert found.count() > 0
    assert all(first <= p.born <= last for p in found)
    assert found.count() == sum(first <= p.born <= last for p in Person.objects.all())


def join():
    found = Subscription.objects.select_related("person").filter(person__email="user12@example.com")
    assert [(s.topic, s.person.pk) for s in found] == [("topic 12", 12)]
    assert Subscription.objects.get(person__email="user13@example.com").topic == "topic 13"


globals()[way]()
