"""Types are checked anew in every test."""

import typecheck


def pytest_runtest_setup() -> None:
    """Forget which functions have passed often enough."""
    typecheck.forget()
