"""The shop, an application of Django's, through an encryption in place and what comes after: orm_django.py HOST DATABASE.

Migrations from nothing, everyday work with the models, and the commands that are about tables.
"""

import io
import sys
import tempfile

import django
from django.conf import settings

host, database = sys.argv[1:]
settings.configure(
    INSTALLED_APPS=["shop"],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.postgresql", "HOST": host, "NAME": database, "USER": "postgres"}
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import F, Value
from django.db.models.deletion import ProtectedError
from django.db.models.functions import Concat
from shop.models import Customer, Invoice, Order


def ask(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def refused(error, action):
    try:
        with transaction.atomic():
            action()
            connection.check_constraints()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def migrations():
    call_command("migrate", "shop", "0001", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO shop_customer (name, iban) SELECT 'old ' || g, 'IBAN ' || g FROM generate_series(1, 3) g")
        cursor.execute("INSERT INTO shop_order (customer_id, total) VALUES (1, 10), (1, 20)")
    call_command("migrate", verbosity=0)
    # Back and forth once more.
    call_command("migrate", "shop", "0002", verbosity=0)
    call_command("migrate", verbosity=0)
    # Django finds nothing left to do.
    call_command("makemigrations", "shop", check_changes=True, dry_run=True)
    assert ask("SELECT pg_typeof(iban)::text FROM shop_customer_encrypted LIMIT 1") == "colcrypt.ciphertext"


def work():
    assert [c.iban for c in Customer.objects.order_by("id")] == ["IBAN 1", "IBAN 2", "IBAN 3"]
    ada = Customer.objects.create(name="Ada", iban="DE1")
    assert (ada.pk, ada.note) == (4, "")
    ada.iban = "DE2"
    ada.save()
    ada.refresh_from_db()
    assert ada.iban == "DE2"
    bob, cid = Customer.objects.bulk_create([Customer(name="Bob", iban="B"), Customer(name="Cid", iban="C")])
    assert (bob.pk, cid.pk) == (5, 6)
    Customer.objects.bulk_create(
        [Customer(pk=bob.pk, name="Bob", iban="B2"), Customer(pk=7, name="Dan", iban="D")],
        update_conflicts=True, unique_fields=["id"], update_fields=["iban"],
    )
    Customer.objects.bulk_create([Customer(pk=7, name="lost", iban="lost")], ignore_conflicts=True)
    assert list(Customer.objects.filter(pk__in=[5, 7]).order_by("pk").values_list("name", "iban")) == [("Bob", "B2"), ("Dan", "D")]
    assert Customer.objects.filter(iban__startswith="B").update(iban=Concat(F("iban"), Value("!"))) == 1
    assert Customer.objects.get(iban="B2!") == bob
    dan, is_new = Customer.objects.update_or_create(pk=7, defaults={"note": "changed"})
    assert (dan.note, is_new) == ("changed", False)
    customers = list(Customer.objects.filter(pk__in=[5, 6]))
    for customer in customers:
        customer.note = "in bulk"
    assert Customer.objects.bulk_update(customers, ["note"]) == 2

    order = Order.objects.select_related("customer").get(total=10)
    assert order.customer.iban == "IBAN 1"
    assert Customer.objects.filter(order__total__gte=20).get().pk == 1
    Order.objects.create(customer=ada, total=30)
    # The constraint is the table's, the one that was there before and the new one.
    refused(IntegrityError, lambda: Order.objects.create(customer_id=99, total=1))
    refused(IntegrityError, lambda: Invoice.objects.create(customer_id=99))
    Invoice.objects.create(customer=bob)
    refused(ProtectedError, bob.delete)
    assert ada.delete()[0] == 2
    assert not Order.objects.filter(total=30).exists()


def sequences():
    """Has each sequence go on after the highest key there is, as after loaddata or rows with keys of their own."""
    sql = io.StringIO()
    call_command("sqlsequencereset", "shop", no_color=True, stdout=sql)
    with connection.cursor() as cursor:
        cursor.execute(sql.getvalue())


def commands():
    before = list(Customer.objects.order_by("pk").values())
    with tempfile.NamedTemporaryFile(suffix=".json") as fixture:
        call_command("dumpdata", "shop", exclude=["shop.customertable"], output=fixture.name, verbosity=0)
        call_command("flush", interactive=False, verbosity=0)
        assert (Customer.objects.count(), Order.objects.count(), Invoice.objects.count()) == (0, 0, 0)
        assert ask("SELECT count(*) FROM shop_customer_encrypted") == 0
        assert Customer.objects.create(name="first", iban="F").pk == 1
        call_command("flush", interactive=False, verbosity=0)
        call_command("loaddata", fixture.name, verbosity=0)
    assert list(Customer.objects.order_by("pk").values()) == before
    # Django asks for the view's sequence, and a view has none; the table's model has it found.
    assert ask("SELECT pg_get_serial_sequence('shop_customer', 'id')") is None
    sequences()
    assert Customer.objects.create(name="next", iban="N").pk == 8


migrations()
work()
commands()
