"""What looks like a secret: names of environment variables, well-known tokens, passwords in URLs, assignments.

A list of what is known can never be whole. The rule that does hold is another one: no environment is ever written.
This is for what people put into a configuration or on a command line by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

NAME = re.compile(r"KEY|TOKEN(?!IZ)|SECRET|PASSW|CREDENTIAL|JWT", re.IGNORECASE)
HIDDEN = "***"
_SHORTEST = 8  # characters of a secret: shorter texts would be found where they mean nothing
_IN_URL = re.compile(r"(?<=://)[^/\s:@'\"]{0,200}:([^/\s@'\"]{1,500})@")
_ASSIGNED = (
    r"(?:\b\w{0,60}(?:KEY|TOKEN(?!IZ)|SECRET|PASSW|CREDENTIAL)\w{0,60}=)(?=[\"']?[^\s\"'$/~`]{8})[\"']?[^\s\"']{8,500}"
)
_KNOWN = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bsk-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rf"|(?<=://)[^/\s:@'\"]{{0,200}}:[^/\s@'\"]{{1,500}}@|{_ASSIGNED}"
)


def secrets_in(environ: Mapping[str, str]) -> list[str]:
    """The values in an environment that must be written nowhere, the longest first."""
    return sorted(set(_values(environ)), key=len, reverse=True)


def _values(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        yield from _IN_URL.findall(value)
        mixed = re.search("[0-9]", value) and re.search("[A-Za-z]", value)
        long_enough = len(value) >= (_SHORTEST if mixed else 2 * _SHORTEST)
        if NAME.search(name) and long_enough and not value.startswith(("/", "~", ".")):  # not where a secret lies
            yield value


def looks_secret(text: str, secrets: list[str]) -> bool:
    """Whether `text` holds one of `secrets`, or what looks like one."""
    return any(secret in text for secret in secrets) or _KNOWN.search(text) is not None


def redacted(text: str, secrets: list[str]) -> str:
    """`text` with what looks like a secret left out."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _KNOWN.sub(HIDDEN, text)
