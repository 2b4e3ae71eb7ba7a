from django.db import models


class Score(models.Model):
    heat = models.PositiveIntegerField(unique=True)
    points = models.PositiveIntegerField()
