"""The shop as it was: one managed model, and another that refers to it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            "Customer",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.TextField()),
                ("iban", models.CharField(max_length=34)),
            ],
        ),
        migrations.CreateModel(
            "Order",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("customer", models.ForeignKey(to="shop.customer", on_delete=models.CASCADE)),
                ("total", models.IntegerField()),
            ],
        ),
    ]
