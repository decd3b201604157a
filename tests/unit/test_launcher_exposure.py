"""Which Triton may listen where."""

from pathlib import Path

import pytest

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.exposure import check_exposure
from zoetrope_server.launcher.installation import TritonInstallation


def triton(version, *, embedded=False):
    return TritonInstallation(
        binary=Path("/bin/tritonserver"),
        backend_source=None,
        library_dirs=(),
        version=version,
        embedded=embedded,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "2001:db8::1", "::ffff:10.0.0.3"])
def test_the_embedded_triton_and_old_ones_stay_on_loopback(host, caplog):
    for installation in (triton((2, 51), embedded=True), triton((2, 51)), triton((2, 69))):
        with pytest.raises(LaunchError, match=f"loopback only, not on {host} .*--expose-vulnerable-triton"):
            check_exposure(installation, ["127.0.0.1", host], accepted=False)
        assert not caplog.records
        check_exposure(installation, [host], accepted=True)
        assert "a single request can end it" in caplog.text
        caplog.clear()
        check_exposure(installation, ["127.0.0.1", "::1"], accepted=False)
    for version in ((2, 70), (3, 0)):
        check_exposure(triton(version), [host], accepted=False)
    assert not caplog.records
