"""`python manage.py announce "Heat 5 starts"`: for cron, or a terminal."""

from django.core.management.base import BaseCommand, CommandError, CommandParser

from fastcable import Publisher, PublishError


class Command(BaseCommand):
    help = "Show a text to everybody who follows the announcements."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("text")

    def handle(self, *args: object, text: str, **options: object) -> None:
        try:
            with Publisher() as publisher:
                subscribers = publisher.broadcast("announcements", text)
        except PublishError as error:
            raise CommandError(error) from error
        self.stdout.write(f"shown to {subscribers}")
