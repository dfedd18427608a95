"""The shop after `encrypt_column('shop_customer', 'iban', …)`: two models of one table."""

from django.db import models


class CiphertextField(models.Field):
    """What the table holds. Nobody reads or writes it through Django."""

    def db_type(self, connection):
        return "colcrypt.ciphertext"


class CustomerTable(models.Model):
    """The table. Migrations, flush and sequence resets are about this one."""

    name = models.CharField(max_length=200)
    iban = CiphertextField(editable=False)
    note = models.TextField(default="")

    class Meta:
        db_table = "shop_customer_encrypted"


class Customer(models.Model):
    """The view that has the table's old name. The application works with this one."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=200)
    iban = models.CharField(max_length=34)
    note = models.TextField(default="")

    class Meta:
        managed = False  # the rest is as it was


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE, db_constraint=False)
    total = models.IntegerField()


class Invoice(models.Model):
    customer = models.ForeignKey(Customer, models.PROTECT, db_constraint=False)
