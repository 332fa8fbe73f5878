"""Names that come from outside: ids that become files, and addresses that are no local folder."""

from pathlib import PurePosixPath

from dgseg.data.dataset import DataError


def check_inside(name: str, what: str) -> str:
    """A relative path without "..": joined to a folder, it stays in that folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or any(ord(char) < 32 for char in name):
        raise DataError(f"{what} {name!r} could leave its folder; it must be a relative path without '..'")
    return name


def without_secrets(uri: str) -> str:
    """A URI for messages and records: without the secret before the @ and without what follows the question mark."""
    if "://" not in uri:
        return uri
    scheme, separator, rest = uri.partition("?")[0].partition("://")
    user_info, at, location = rest.rpartition("@")
    user, colon, _ = user_info.partition(":")
    return f"{scheme}{separator}{user}{':***' if colon else ''}{at}{location}"


def check_local(path: str, what: str) -> str:
    """A place on this machine's disks: commands that read no object store refuse its URIs."""
    if "://" in path:
        raise DataError(f"{what}{without_secrets(path)}: only local files and folders can be named here")
    return path
