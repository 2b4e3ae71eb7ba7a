import os

SECRET_KEY = os.environ.get("SECRET_KEY", "only for trying this out")
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "scores.urls"
INSTALLED_APPS = ["scores"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", "scores.sqlite3")}
}
