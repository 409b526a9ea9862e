"""Unlabeled images in a LitData data set: a folder or a URL with chunks of images, of which only some are at hand.

A chunk is a file of about 64 MB that holds images one after the other; ``index.json`` counts them. Where they lie
behind a URL, a chunk is downloaded as a whole into LitData's cache when one of its images is first wanted.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import StringConstraints
from rich.console import Console
from rich.progress import track
from torch.utils.data import get_worker_info

from denseteacher.data.formats.files import is_file
from denseteacher.data.images import image_size, read_content
from denseteacher.data.randomness import Draw, keyed_generator
from denseteacher.data.records import EncodedImage, ImageRecord, UnopenedImages
from denseteacher.errors import InputError
from denseteacher.files import refusal_explained, require_empty

if TYPE_CHECKING:
    from litdata.streaming import Cache

_URL = r"^((s3|gs|azure)://|local:)"
Url = Annotated[str, StringConstraints(pattern=_URL)]
"""A place that LitData downloads from; ``local:`` before a path is a disk too slow to read images from."""
_CHUNK_BYTES = 2**26
_CACHE_SHARE = 0.75  # of what the cache takes and the disk has left
_RUN_CODE = {"pickle", "graph"}  # kinds of values that LitData unpickles
_LOOKED_AT = 8  # chunks that stand for all of them
_POLL = 0.05  # seconds


def is_url(place: Path | str) -> bool:
    """Whether a place is not a path but one that LitData downloads from."""
    return isinstance(place, str) and re.match(_URL, place) is not None


def is_stream(place: Path | str) -> bool:
    """Whether a place is one for ``StreamedImages``."""
    return is_url(place) or (is_file(Path(place) / "index.json") and any(Path(place).glob("chunk-*.bin")))


class StreamedImages(UnopenedImages):
    """The images of a LitData data set, each item of which is an image file's bytes, or a dict with them as ``image``.

    This is not an iterator, whose state a run would have to save: any process can ask for any image at any time.
    """

    def __init__(self, source: Path | str) -> None:
        """Reads the index and the first image.

        Args:
            source: A folder with LitData's ``index.json``, or the URL of one.

        Raises:
            InputError: If LitData is not installed or can't read the data set, or that holds something else.
        """
        self.source = str(source)
        self._opened: Cache | None = None
        self._process = 0
        self._ahead: Thread | None = None
        cache = self._cache()
        self.chunk_sizes = np.array([one.chunk_end - one.chunk_start for one in cache.get_chunk_intervals()], np.int64)
        self._ends = np.cumsum(self.chunk_sizes)
        if cache._reader.config.compression:
            raise InputError(f"{source} is compressed: write it without, since images are compressed already")
        kinds = {str(kind).partition(":")[0] for kind in cache._reader.config.data_format}
        if kinds & _RUN_CODE:
            raise InputError(f"{source} holds pickled objects, which can run code: write the bytes of image files")
        self.record(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def record(self, position: int) -> ImageRecord:
        """See ``UnopenedImages``."""
        name = f"{self.source}, image {position + 1}"
        with _refusal(name):
            item = self._item(position)
        fields = item if isinstance(item, dict) else {"image": item}
        content = fields.get("image")
        if not isinstance(content, bytes | bytearray | memoryview):
            raise InputError(f"{name} is not an image file's bytes, nor a dict that has them under 'image'")
        file = fields.get("name", b"")
        if isinstance(file, bytes | bytearray | memoryview) and file:
            name = f"{name} ({bytes(file).decode(errors='replace')})"
        image = EncodedImage(name, bytes(content))
        height, width = image_size(Path(self.source), image)
        return ImageRecord(position + 1, Path(self.source), width, height, image)

    def spread(self, count: int) -> list[int]:
        """See ``UnopenedImages``; from a few chunks, so that not all have to be downloaded."""
        chunks = sorted({number * len(self._ends) // _LOOKED_AT for number in range(_LOOKED_AT)})
        some = np.concatenate([self.positions_in(chunk) for chunk in chunks])
        return sorted({int(some[number * len(some) // count]) for number in range(count)})

    def positions_in(self, chunk: int) -> range:
        """Positions of a chunk's images."""
        end = int(self._ends[chunk])
        return range(end - int(self.chunk_sizes[chunk]), end)

    def fetch_ahead(self, chunks: Sequence[int]) -> None:
        """Downloads chunks that will be wanted, in this order, while the caller goes on.

        Loader processes share the work: who finds a chunk in the hands of another takes the next. A process that
        others are forked from must not have a thread, so outside of loader processes nothing is fetched ahead.
        """
        if not is_url(self.source) or get_worker_info() is None or (self._ahead is not None and self._ahead.is_alive()):
            return
        self._ahead = Thread(target=self._fetch, args=(chunks, self._cache()._reader.config), daemon=True)
        self._ahead.start()

    def _fetch(self, chunks: Sequence[int], config: Any) -> None:
        for chunk in chunks:
            with suppress(Exception):  # who needs the chunk says what is wrong with it
                self._download(chunk, config)

    def _download(self, chunk: int, config: Any) -> bool:
        """Downloads a chunk unless another process is at it; tells whether it is there."""
        file = Path(config[_chunked(0, chunk)][0])
        if not file.exists():
            config.download_chunk_from_index(chunk, skip_lock=True)
            if file.exists():
                _make_room(file.parent)
        return file.exists()

    def _item(self, position: int) -> Any:
        cache, chunk = self._cache(), int(np.searchsorted(self._ends, position, side="right"))
        index = _chunked(position, chunk)
        if not is_url(self.source):
            return cache[index]
        reader = cache._reader
        while not self._download(chunk, reader.config):
            time.sleep(_POLL)
        # cache[index] reads the range of bytes of one item, which there is not in the chunks of Arrow rows that LitData
        # writes wherever pyarrow is installed
        file, begin, size = reader.config[index]
        loader: Any = reader._item_loader
        return loader.load_item_from_chunk(position, chunk, file, begin, size)

    def _cache(self) -> "Cache":
        """LitData's reader of this process: files and connections can't be shared with another."""
        if self._opened is None or self._process != os.getpid():
            try:
                from litdata import StreamingDataset
            except ImportError as error:
                raise InputError(
                    f"{self.source} is a LitData data set: pip install 'dense-teacher[streaming]' to read it"
                ) from error
            with _refusal(f"{self.source}, as a LitData data set,"):
                reader = StreamingDataset(self.source)
                len(reader)  # with it the index is read
                self._opened = reader.shuffler.cache
            self._process = os.getpid()
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_ahead": None}


def _chunked(position: int, chunk: int) -> Any:
    from litdata.streaming.sampler import ChunkedIndex

    return ChunkedIndex(position, chunk)


@contextmanager
def _refusal(what: str) -> Iterator[None]:
    """Makes one sentence of whatever LitData, or the client of a storage service, raises."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{what} can't be read ({reason})") from error


def _make_room(folder: Path) -> None:
    """Removes the chunks that were downloaded first, where all take too much of the disk."""
    chunks = sorted(((file.stat(), file) for file in folder.glob("*.bin")), key=lambda pair: pair[0].st_mtime_ns)
    taken = sum(status.st_size for status, _ in chunks)
    most = _CACHE_SHARE * (taken + shutil.disk_usage(folder).free)
    for status, file in chunks[:-1]:
        if taken <= most:
            return
        file.unlink(missing_ok=True)
        taken -= status.st_size


class WrittenStream(NamedTuple):
    """What ``write_stream`` left."""

    images: int
    unreadable: list[str]
    """A sentence on each image that was passed over."""


def write_stream(images: Sequence[ImageRecord], output: Path) -> WrittenStream:
    """Writes images as a LitData data set, in a random order, so that any few chunks show a bit of everything.

    Args:
        images: Their files are copied as they are.
        output: A folder, new or empty.

    Raises:
        InputError: If LitData is not installed, the folder is not empty, or none of the images can be read.
        RunError: If the disk refuses.
    """
    require_empty(output)
    try:
        from litdata.streaming import Cache
    except ImportError as error:
        raise InputError("writing a LitData data set needs LitData: pip install 'dense-teacher[streaming]'") from error
    order, unreadable, written = keyed_generator(0, Draw.CHUNKS).permutation(len(images)), list[str](), 0
    with refusal_explained(output):
        output.mkdir(parents=True, exist_ok=True)
        writer = Cache(str(output), chunk_bytes=_CHUNK_BYTES)
        for position in track(order, description="writing", console=Console(stderr=True), transient=True):
            try:
                record = images[position]
                # the name as bytes: LitData would store the file that a text names
                item = {"image": read_content(record.path, record.member), "name": record.name.encode()}
            except (InputError, OSError) as error:
                unreadable.append(str(error))
                continue
            writer[written] = item
            written += 1
        if not written:
            raise InputError("; the first: ".join(["none of the images can be read", *unreadable[:1]]))
        writer.done()
        writer.merge()
    return WrittenStream(written, unreadable)
