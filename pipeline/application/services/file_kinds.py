"""Checks that a file is audio, image or video, by its first bytes."""

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
"""Containers of audio or video; their first bytes do not tell which."""


def require_kind(first_bytes: bytes, asset_type: str) -> None:
    """Require that a file's first bytes match its type.

    Args:
        first_bytes: 8192 bytes are enough.
        asset_type: audio, image or video.

    Raises:
        Refused: the file is empty, or of an unknown or another kind.
    """
    if not first_bytes:
        raise Refused("The file is empty", remedy="Pass the bytes of the file")
    found = filetype.guess(bytes(first_bytes[:8192]))
    if found is None:
        raise Refused(
            f"The file begins with {first_bytes[:8].hex(' ')}, which is no known file format",
            remedy=f"Pass the bytes of the {asset_type}, not its name or text",
        )
    kinds = {"audio", "video"} if found.mime in _EITHER else {found.mime.partition("/")[0]}
    if asset_type not in kinds:
        raise Refused(
            f"The file is {found.mime}, not {asset_type}",
            remedy="Correct the type, or pass the right file",
        )
