"""Changes after the encryption: a new column, another type, a new foreign key."""

from django.db import migrations, models

DROP_VIEW = "DROP VIEW shop_customer"
MAKE_VIEW = "SELECT colcrypt.create_access_view('shop_customer_encrypted', 'shop_customer')"


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_encrypt_iban")]
    operations = [
        # The table is changed without the view. A column more needs only the second of them, and the view keeps its grants.
        migrations.RunSQL(DROP_VIEW, MAKE_VIEW),
        migrations.AddField("customertable", "note", models.TextField(default="")),
        migrations.AlterField("customertable", "name", models.CharField(max_length=200)),
        migrations.RunSQL(MAKE_VIEW, DROP_VIEW),
        # A foreign key: the model says the view, the constraint the table.
        migrations.CreateModel(
            "Invoice",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("customer", models.ForeignKey(to="shop.customer", on_delete=models.PROTECT, db_constraint=False)),
            ],
        ),
        migrations.RunSQL(
            "ALTER TABLE shop_invoice ADD FOREIGN KEY (customer_id) REFERENCES shop_customer_encrypted"
            " DEFERRABLE INITIALLY DEFERRED",
            migrations.RunSQL.noop,
        ),
    ]
