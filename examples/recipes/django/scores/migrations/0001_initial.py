from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [  # noqa: RUF012
        migrations.CreateModel(
            "Score",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("heat", models.PositiveIntegerField(unique=True)),
                ("points", models.PositiveIntegerField()),
            ],
        )
    ]
