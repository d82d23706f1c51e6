"""Whether a file is the audio, image or video that it is said to be."""

import filetype

from pipeline.application.errors import Refused

_EITHER = frozenset(
    {
        "audio/mp4",
        "audio/ogg",
        "video/3gpp",
        "video/mp4",
        "video/quicktime",
        "video/webm",
        "video/x-matroska",
        "video/x-ms-wmv",
    }
)
"""Containers that hold audio or video; their first bytes do not tell which."""


def require_kind(first_bytes: bytes, asset_type: str) -> None:
    """Do nothing when a file's first bytes agree with its type.

    Args:
        first_bytes: how it begins; 8192 bytes are enough.
        asset_type: audio, image or video.

    Raises:
        Refused: the file is empty, of an unknown kind, or of another one.
    """
    if not first_bytes:
        raise Refused("The file is empty", remedy="Give its bytes")
    met = filetype.guess(bytes(first_bytes[:8192]))
    if met is None:
        raise Refused(
            f"The file begins with {first_bytes[:8].hex(' ')}, which no known kind of file does",
            remedy=f"Give the {asset_type} itself, not its name or text",
        )
    kinds = {"audio", "video"} if met.mime in _EITHER else {met.mime.partition("/")[0]}
    if asset_type not in kinds:
        raise Refused(
            f"The file looks like {met.mime}, not like {asset_type}",
            remedy="Correct the type, or give the right file",
        )
