"""Encrypts a column and tells Django what became of the table."""

import time

from django.db import migrations, models

from shop.models import CiphertextField


def encrypt(apps, schema_editor):
    """Orders the migration, unless an administrator did, and waits for its end. A large table takes its time."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(
            "SELECT max(job_id) FROM colcrypt.job_progress WHERE kind = 'encrypt_column'"
            " AND relation IN (to_regclass('shop_customer'), to_regclass('shop_customer_encrypted'))"
        )
        job = cursor.fetchone()[0]
        if job is None:
            cursor.execute("SELECT max(job) FROM colcrypt.encrypt_column('shop_customer', 'iban', 'k')")
            job = cursor.fetchone()[0]
        phase = None
        while phase != "done":
            cursor.execute("SELECT phase, last_error FROM colcrypt.job_progress WHERE job_id = %s", [job])
            phase, error = cursor.fetchone()
            if phase in ("failed", "cancelled"):
                raise RuntimeError(f"encrypt_column: {phase}: {error}")
            time.sleep(0.1)


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    atomic = False  # the job begins when its order is committed
    operations = [
        migrations.RunPython(encrypt),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterModelOptions("customer", {"managed": False}),
                migrations.CreateModel(
                    "CustomerTable",
                    [
                        ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                        ("name", models.TextField()),
                        ("iban", CiphertextField(editable=False)),
                    ],
                    options={"db_table": "shop_customer_encrypted"},
                ),
                migrations.AlterField(
                    "order",
                    "customer",
                    models.ForeignKey(to="shop.customer", on_delete=models.CASCADE, db_constraint=False),
                ),
            ]
        ),
    ]
