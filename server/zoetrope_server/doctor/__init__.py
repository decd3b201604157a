"""What this machine can serve, what it cannot, and what to do about it: `zoetrope doctor`."""

from zoetrope_server.doctor.examination import examine
from zoetrope_server.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
