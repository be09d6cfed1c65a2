"""Every test that takes a `subject` runs for each backend."""

import pytest

from llmc.conformance.plugin import OPTION
from llmc.conformance.subject import available, subject


def pytest_generate_tests(metafunc):
    if "subject" in metafunc.fixturenames:
        names = metafunc.config.getoption(OPTION, default=None) or available()
        metafunc.parametrize("subject", names, indirect=True, scope="session")


@pytest.fixture(scope="session", name="subject")
def _subject(request):
    """The backend under test (`llmc.conformance.subject.Subject`)."""
    return subject(request.param)
