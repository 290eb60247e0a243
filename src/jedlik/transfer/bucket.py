"""From a URL to a bucket or folder that the object tier can use, and from what goes wrong there to a cause.

Credentials come from where AWS' own tools take them (environment, container and instance roles), never from the URL,
and no message repeats what a server answered: it may quote them.
"""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jedlik.core.errors import ConfigError
from jedlik.core.moves import Cause
from jedlik.transfer.private import private_folder

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_RETRIES = 2


def open_bucket(url: str, timeout_s: float) -> "Bucket":
    """Of s3://bucket/prefix, file:///path, or memory:/// (this process' own). Nothing is asked of a server yet.

    No request takes longer than `timeout_s`, repetitions included twice that. Raises ConfigError.
    """
    try:
        from obstore import store
    except ImportError as error:
        raise ConfigError("object storage needs an extra package: pip install 'jedlik[object]'") from error
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ConfigError("kv_object: no credentials or options in the URL; set AWS_ACCESS_KEY_ID and so on instead")
    if parts.scheme == "memory":
        return store.MemoryStore()
    if parts.scheme == "file":
        return store.LocalStore(_folder(url, parts.netloc, parts.path))
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigError(f"kv_object: {url} is neither s3://bucket/prefix nor file:///path")
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    wait = timedelta(seconds=timeout_s)
    errors: tuple[type[Exception], ...] = (*bucket_errors(), ValueError)
    try:
        return store.S3Store.from_url(
            url,
            client_options={"timeout": wait, "connect_timeout": min(wait, timedelta(seconds=2)), "allow_http": plain},
            retry_config={"max_retries": _RETRIES, "retry_timeout": wait},
        )
    except errors as error:
        raise ConfigError(f"kv_object: {url}: {told(error)}") from None


def _folder(url: str, host: str, path: str) -> Path:
    if host or not path.startswith("/") or path == "/":
        raise ConfigError(f"kv_object: {url} names no folder: write file:///path")
    folder = Path(path)
    return folder if folder.is_dir() else private_folder(folder)


def bucket_errors() -> tuple[type[Exception], ...]:
    """What a bucket raises for what happens in the world."""
    from obstore.exceptions import BaseError

    return BaseError, OSError


def told(error: Exception) -> str:
    """What kind of error it is, and the HTTP status if there is one; never what the server said."""
    kind = {"GenericError": "no answer, or an error of the server"}.get(type(error).__name__, type(error).__name__)
    status = re.search(r"status[^0-9]{0,20}([45]\d\d)\b", str(error))
    return f"{kind} (HTTP {status[1]})" if status else kind


def cause_of(error: Exception) -> Cause:
    if isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError":
        return "missing"
    return "gone" if type(error).__name__ == "GenericError" else "failed"
