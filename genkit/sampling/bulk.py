"""Many samples in turn, written into a folder as single files or tar files.

The share of a job that one process writes; it may be killed at any time, and resumed. Starts no processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from genkit.errors import ConfigError
from genkit.sampling.jobs import Job, share_of
from genkit.sampling.ledger import Ledger
from genkit.sampling.listing import Files, file_name
from genkit.sampling.samples import Samples, is_joint
from genkit.system.files import user_path, write_files, writing
from genkit.system.runtime import overlapped

Chunks = Iterator[tuple[int, Samples]]
"""(piece, samples of it), in order."""

Written = Generator[tuple[int, dict[str, Any]], None, None]
"""(piece, its record) when its files are written; the record of single files is empty."""


def write_job(
    job: Job, path: str | Path, shard: str | None, resume: bool, progress: Callable[[int, int], object] | None,
) -> Files:  # fmt: skip
    """Draw the share of a job that this process writes into a folder; see `Model.generate_to`."""
    if is_joint(job.model.modality, path):
        raise ConfigError(f"{path} is one file: name a folder, such as {Path(path).stem}/")
    share = share_of(shard)
    ledger = Ledger(user_path(path), job, share)
    ledger.refuse_others(resume)
    resume = resume and ledger.is_begun
    missing = ledger.missing(resume)
    chunks = job.chunks(ledger.begun(missing))
    # A mistake of the user's is found before anything is written.
    chunks = itertools.chain(list(itertools.islice(chunks, 1)), chunks)
    ledger.begin()
    total = sum(len(job.indices(piece)) for piece in share.pieces(job))
    count = total - sum(len(job.indices(piece)) for piece in missing)
    write = _write_tars if job.per_tar else _write_single
    report = progress or (lambda *_: None)
    report(count, total)
    try:
        with ledger, contextlib.closing(write(chunks, ledger)) as written:
            for piece, record in written:
                ledger.note(piece, record)
                count += len(job.indices(piece))
                report(count, total)
    except BaseException:
        if share.of == 1:
            ledger.list_begun()
        raise
    return Files(ledger.folder, share.numbers(job), job.ending, ledger.finish(resume))


def _write_single(chunks: Chunks, ledger: Ledger) -> Written:
    """Write each sample as a file of its own, but for those whose files stay."""
    job = ledger.job

    def write(item: tuple[int, Samples]) -> tuple[int, dict[str, Any]]:
        piece, chunk = item
        contents = zip(chunk.indices, chunk.encode(job.format), strict=True)
        files = (
            (file_name(index, job.format), content)
            for index, content in contents
            if not ledger.keeps(piece, index)
        )
        write_files(ledger.folder, files)
        return piece, {}

    yield from overlapped(write, chunks)


def _write_tars(chunks: Chunks, ledger: Ledger) -> Written:
    """Write each piece as a tar file; its record is the size and the hash."""
    job = ledger.job

    def encode(item: tuple[int, Samples]) -> tuple[int, Samples, list[bytes]]:
        return *item, item[1].encode(job.format)

    def members(parts: Iterable[tuple[int, Samples, list[bytes]]]) -> Iterator[tuple[str, bytes]]:
        for _, chunk, contents in parts:
            indices = range(chunk.indices[0], chunk.indices[-1] + 1)
            for row, content in zip(job.rows(indices), contents, strict=True):
                yield f"{row['index']:09d}.{job.format}", content
                yield f"{row['index']:09d}.json", json.dumps(row).encode()

    with contextlib.closing(overlapped(encode, chunks)) as encoded:
        for piece, parts in itertools.groupby(encoded, key=lambda part: part[0]):
            yield piece, write_tar(ledger.folder / file_name(piece, "tar"), members(parts))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> dict[str, Any]:
    """Write a tar file (POSIX ustar) completely or not at all; equal members give equal bytes.

    `tarfile.TarFile` would keep each member's header in memory.

    Args:
        members: (name, content) of each.

    Returns:
        Its size and hash: `bytes`, `sha256`.

    Raises:
        StorageError: if it cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    with writing(path) as file:

        def put(content: bytes) -> None:
            nonlocal size
            file.write(content)
            digest.update(content)
            size += len(content)

        for name, content in members:
            info = tarfile.TarInfo(name)  # of time 0, owner 0 and mode 644
            info.size = len(content)
            put(info.tobuf(tarfile.USTAR_FORMAT) + content)
            put(bytes(-size % tarfile.BLOCKSIZE))
        put(bytes(2 * tarfile.BLOCKSIZE))
        put(bytes(-size % tarfile.RECORDSIZE))
    return {"bytes": size, "sha256": digest.hexdigest()}
