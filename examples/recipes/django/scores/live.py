"""What is saved is shown, once it is committed: nobody sees what is rolled back."""

from functools import partial

from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver

from fastcable import Publisher
from scores.models import Score

publisher = Publisher(on_error="log")


@receiver(post_save, sender=Score)
def show(instance: Score, **kwargs: object) -> None:
    data = {"heat": instance.heat, "points": instance.points}
    transaction.on_commit(partial(publisher.broadcast, "scores", data, retain=True))
