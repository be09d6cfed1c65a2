"""Every test that takes a `subject` runs for each backend."""

import pytest

from llmc.conformance.plugin import OPTION
from llmc.conformance.subject import lacking, registered, subject


def pytest_generate_tests(metafunc):
    if "subject" in metafunc.fixturenames:
        names = metafunc.config.getoption(OPTION, default=None) or registered()
        metafunc.parametrize("subject", names, indirect=True, scope="session")


@pytest.fixture(scope="session", name="subject")
def _subject(request):
    """The backend under test (`llmc.conformance.subject.Subject`). One that cannot run here is skipped with its reason."""
    reason = lacking(request.param)
    if reason:
        pytest.skip(reason)
    return subject(request.param)
