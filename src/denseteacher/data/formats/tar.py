"""Tar shards: images in uncompressed tar files, read where they lie."""

import tarfile
from pathlib import Path

from denseteacher.data.formats.files import is_image
from denseteacher.data.images import IMAGE_SUFFIXES
from denseteacher.data.records import TarMember
from denseteacher.errors import InputError
from denseteacher.files import refuse_irregular


def tar_members(path: Path) -> list[TarMember]:
    """The images in a tar file, in its order; hidden files are passed over.

    Raises:
        InputError: If it is compressed, damaged, or holds no images.
    """
    refuse_irregular(path)
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            members = [
                TarMember(member.name, member.offset_data, member.size)
                for member in archive
                if member.isfile() and is_image(member.name)
            ]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{path} can't be read as an uncompressed tar file ({error}): unpack it, or pack it without compression"
        ) from error
    if members and members[-1].offset + members[-1].size > size:
        raise InputError(f"{path} is cut off: {members[-1].name} ends after its last byte; copy the file again")
    if not members:
        raise InputError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return members
