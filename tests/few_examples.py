"""`pytest -p tests.few_examples`: Hypothesis tries a few examples of each test only and takes its time, and the others
wait longer, for tests that something slow watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings

from tests import harness

if TYPE_CHECKING:
    import pytest

SETTINGS = "_hypothesis_internal_use_settings"

harness.PATIENCE *= 10
settings.register_profile("few", max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("few")


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Also of those that say how many they want."""
    for item in items:
        if isinstance(wanted := getattr(item.obj, SETTINGS, None), settings):
            setattr(item.obj, SETTINGS, settings(wanted, max_examples=5, deadline=None))
