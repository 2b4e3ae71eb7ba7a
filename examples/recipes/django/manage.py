"""A scoreboard: whenever a score is saved, everybody who follows sees it.

python manage.py migrate
python manage.py runserver
"""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "scores.settings")
execute_from_command_line(sys.argv)
