"""Load goes to this machine and nowhere else."""

from ipaddress import ip_address
from urllib.parse import urlsplit


def loopback(url: str) -> str:
    """The URL without a last slash; `ValueError` where it is not of this machine."""
    name = urlsplit(url).hostname or ""
    if name != "localhost" and not _is_loopback(name):
        raise ValueError(f"refused: {url} is not on a loopback address")
    return url.rstrip("/")


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
