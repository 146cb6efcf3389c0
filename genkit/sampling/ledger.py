"""What is finished of a job in a folder, and what of the folder is in its way.

Knows jobs and the files of a folder; draws nothing. Writes notes of what is finished, and at the end samples.json.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from genkit.errors import ConfigError, StorageError
from genkit.sampling.jobs import Job, Share, identity_of, numbers_of
from genkit.sampling.listing import (
    LIST,
    TARS,
    Listing,
    Names,
    file_name,
    is_of,
    number_of,
    read_listing,
    refuse_loss,
    refuse_mixture,
    rows_beside,
    unlisted_names,
    write_listing,
)
from genkit.system.files import file_hash, make_folder, names_in, unfinished, writing


class Ledger:
    """What is finished of a job in a folder, by the notes of all processes that work on it; a context while it writes.

    The notes are files `samples.K-of-N.JOB.part`, one for each share: a line with the job, and one for each finished
    piece. Whichever process finds all pieces finished writes samples.json and removes the notes.

    A process may be killed between a file and its note. Files without a note are the job's all the same, unless there
    were files of these names before the job began.

    Args:
        folder: that is written into.
        job: whose samples are written.
        share: of the job, that this process writes.

    Attributes:
        listing: the folder's samples.json; None: it has none.
        finished: 1 for each piece of the job that is finished.
        records: size and hash of the finished tar files, by piece.
        is_kept: 1 for each piece of which files that are there stay as they are.
        is_new: whether no file of the job's names was there before the job began.
        notes: the files with notes on this job.
        others: the headers of notes on other jobs, by file.
        last_piece: that was begun here.
    """

    def __init__(self, folder: Path, job: Job, share: Share) -> None:
        self.folder, self.job, self.share = folder, job, share
        self.header = json.loads(json.dumps(job.header))
        self.identity = identity_of(self.header)
        text = json.dumps(self.identity, sort_keys=True).encode()
        name = f"samples.{share.number}-of-{share.of}.{hashlib.sha256(text).hexdigest()[:8]}.part"
        self.path, self.last_piece = folder / name, -1
        self.is_kept = bytearray(len(job.pieces))
        self.read()

    def read(self) -> None:
        """Read the notes of all processes, and then the list, for which they are removed."""
        self.finished = bytearray(len(self.job.pieces))
        self.records: dict[int, dict[str, Any]] = {}
        self.notes: list[Path] = []
        self.others: dict[Path, dict[str, Any]] = {}
        self.is_new = True
        for path in _files_of_notes(self.folder):
            header = _header_of(path)
            if header is not None and identity_of(header) == self.identity:
                self.notes.append(path)
                self.is_new &= header.get("is_new") is True
                for note in _notes(path):
                    self._add(note.pop("piece"), note)
            elif header is not None:
                self.others[path] = header
        self.listing = read_listing(self.folder)
        if self.listing is not None and self.is_listed:
            self.finished = bytearray([1]) * len(self.job.pieces)
            for row in self.listing.rows() if self.job.per_tar else ():
                parts = number_of(row["file"])
                if parts is not None:
                    self._add(parts[0], {key: row[key] for key in ("bytes", "sha256")})

    def _add(self, piece: int, record: dict[str, Any]) -> None:
        is_sound = not self.job.per_tar or record.keys() == {"bytes", "sha256"}
        if piece in self.job.pieces and is_sound:
            self.finished[piece - self.job.pieces.start] = 1
            if self.job.per_tar:
                self.records[piece] = record

    @property
    def is_begun(self) -> bool:
        """Whether there is anything to resume."""
        return bool(self.notes) or self.is_listed

    @property
    def is_listed(self) -> bool:
        """Whether samples.json says that all of this job is finished."""
        listing = self.listing
        if listing is None or listing.key != self.job.key:
            return False
        return identity_of(listing.header) == self.identity

    # Before anything is written -----------------------------------------------------------------------------------

    def refuse_others(self, resume: bool) -> None:
        """Raise ConfigError if the folder holds what these samples must not lie among, or would replace.

        Args:
            resume: whether the job is to go on with what was begun.
        """
        job, listing, is_first = self.job, self.listing, not self.is_begun
        claims = [] if is_first else [(job.numbers, job.ending)]
        for header in self.others.values():
            claims.append((numbers_of(header), _ending_of(header)))
            if not self._is_compatible(header) or (resume and is_first):
                self._refuse(header, only_overlapping=self._is_compatible(header))
        if listing is not None and resume and is_first and identity_of(listing.header):
            self._refuse(listing.header, only_overlapping=True)
        names = [Names(claims=claims), *([listing.names] if listing else [])]
        own_names = (
            name
            for name in unlisted_names(self.folder, names)
            if name == LIST or ((parts := number_of(name)) and self.share.has(job, parts[0]))
        )
        refuse_loss(self.folder, list(own_names), job.numbers, job.ending)
        if listing is not None and not self.is_listed:
            refuse_mixture(
                listing, self.header, {"seed": job.seed}, job.numbers, job.ending, job.key
            )
            if job.per_tar and listing.key == TARS:
                self._refuse_other_tars(listing)

    def _is_compatible(self, header: Mapping[str, Any]) -> bool:
        """Whether another job's files may lie beside those of this one."""
        ours, theirs = self.header["job"], header["job"]
        is_alike = all(ours[key] == theirs[key] for key in ("seed", "per_tar"))
        return is_alike and is_of(header, self.header)

    def _refuse(self, header: Mapping[str, Any], only_overlapping: bool) -> None:
        """Raise ConfigError: the folder was begun with another job.

        Args:
            header: of that job.
            only_overlapping: do so only if both have samples of the same indices.
        """
        ours, theirs = self.job, header["job"]
        is_before = theirs["start"] + theirs["n"] <= ours.start
        if only_overlapping and (is_before or ours.start + ours.n <= theirs["start"]):
            return
        old, new = identity_of(header) or {}, self.identity or {}
        if old["model"] != new["model"]:
            difference = f"another model ({header['model'].get('path')})"
        else:
            keys = [key for key in new if old.get(key) != new[key]]
            texts = [
                ", ".join(f"{key} = {json.dumps(values.get(key))}" for key in keys)
                for values in (old, new)
            ]
            difference = f"{texts[0]}, and this has {texts[1]}"
        raise ConfigError(
            f"{self.folder} was begun with {difference}: repeat the first command with --resume to go on, choose "
            "another folder with --out, or delete this one"
        )

    def _refuse_other_tars(self, listing: Listing) -> None:
        """Raise ConfigError if samples of an earlier tar file would be lost, or be in two."""
        job = self.job
        for row in listing.rows():
            parts, start, stop = number_of(row["file"]), row["start"], row["start"] + row["count"]
            indices = range(0)
            if parts is not None and parts[0] in job.pieces:
                indices = job.indices(parts[0])
            is_near = start < job.start + job.n and job.start < stop
            is_kept_whole = indices.start <= start and stop <= indices.stop
            if (is_near or indices) and not is_kept_whole:
                raise ConfigError(
                    f"{self.folder / row['file']} holds the samples {start:,} to {stop - 1:,}, which the new tar files "
                    "would divide otherwise: take the start, number and number per tar file of before, or another "
                    "folder"
                )

    # What is there ------------------------------------------------------------------------------------------------

    def missing(self, resume: bool) -> Sequence[int]:
        """The pieces of the share that must be written: all, or, to resume, those whose files are not all there."""
        pieces, first = self.share.pieces(self.job), self.job.pieces.start
        if resume:
            self.is_kept = bytearray(flag or self.is_new for flag in self.finished)
        missing_pieces = array("q", (piece for piece in pieces if not self._is_there(piece)))
        for piece in pieces:
            self.finished[piece - first] = 1
        for piece in missing_pieces:
            self.finished[piece - first] = 0
        return missing_pieces

    def _is_there(self, piece: int) -> bool:
        """Whether the files of a piece are finished. A tar file without a note is read, and its record made."""
        if not self.is_kept[piece - self.job.pieces.start]:
            return False
        if not self.job.per_tar:
            return all(self.keeps(piece, index) for index in self.job.indices(piece))
        path = self.folder / file_name(piece, "tar")
        try:
            size = path.stat().st_size
            if piece not in self.records:
                self._add(piece, {"bytes": size, "sha256": file_hash(path)})
        except OSError:
            return False
        return bool(size == self.records[piece]["bytes"])

    def keeps(self, piece: int, index: int) -> bool:
        """Whether the file of a sample, in this piece, is finished and stays as it is."""
        return bool(self.is_kept[piece - self.job.pieces.start]) and self.has_file(index)

    def has_file(self, index: int) -> bool:
        """Whether the file of a sample is there; an empty one is what a power failure leaves."""
        # Not by pathlib, which interns names: in Python 3.12 interned strings stay in memory.
        try:
            return os.stat(os.path.join(self.folder, file_name(index, self.job.format))).st_size > 0
        except OSError:
            return False

    # While it is written ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the folder and this share's notes; what a killed process left half-written is removed.

        Raises:
            StorageError: if the folder or the notes cannot be written.
        """
        make_folder(self.folder)
        for path, name in unfinished(self.folder):
            parts = number_of(name)
            is_own = parts and parts[1] == self.job.ending and self.share.has(self.job, parts[0])
            if (is_own and self.notes) or name == self.path.name:
                path.unlink(missing_ok=True)
        if not self.is_begun:
            parts_here = map(number_of, names_in(self.folder))
            endings = (parts[1] for parts in parts_here if parts and parts[0] in self.job.numbers)
            self.is_new = self.job.ending not in endings
        first = self.job.pieces.start
        pieces = (piece for piece in self.share.pieces(self.job) if self.finished[piece - first])
        lines = ({"piece": piece, **self.records.get(piece, {})} for piece in pieces)
        with writing(self.path) as file:
            for line in itertools.chain([{**self.header, "is_new": self.is_new}], lines):
                file.write(f"{json.dumps(line)}\n".encode())

    def __enter__(self) -> Ledger:
        self.file: BinaryIO = self.path.open("ab", buffering=0)
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def begun(self, pieces: Iterable[int]) -> Iterator[int]:
        """The pieces; the last one that was taken is remembered."""
        for piece in pieces:
            self.last_piece = piece
            yield piece

    def note(self, piece: int, record: dict[str, Any]) -> None:
        """Note that a piece is finished.

        Raises:
            StorageError: if the disk is full.
        """
        self._add(piece, record)
        try:
            self.file.write(f"{json.dumps({'piece': piece, **record})}\n".encode())
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error

    # At the end ---------------------------------------------------------------------------------------------------

    def finish(self, resume: bool) -> bool:
        """Write samples.json and remove the notes if all processes have finished; whether it is there now.

        Args:
            resume: whether a list that is there already is left as it is.
        """
        self.read()
        if not all(self.finished):
            return False
        if not (resume and self.is_listed):
            try:
                self._write_list(self.job.pieces, is_whole=True)
            except StorageError:
                self.read()
                if not self.is_listed:  # else another process has written it at the same time
                    raise
        for path, name in unfinished(self.folder):
            if name == LIST:
                path.unlink(missing_ok=True)
        own = self.job.numbers
        covered = (
            path
            for path, header in self.others.items()
            if _ending_of(header) == self.job.ending
            and numbers_of(header)[0] in own
            and numbers_of(header)[-1] in own
        )
        for path in itertools.chain(self.notes, covered):
            with contextlib.suppress(OSError):  # on Windows another process may still have it open
                path.unlink()
        return True

    def list_begun(self) -> None:
        """Write a samples.json of what there is of a job that is stopped; it does not say that the job is finished."""
        first = self.job.pieces.start
        pieces = (
            piece
            for piece in self.job.pieces
            if self.finished[piece - first] or (self.is_new and piece <= self.last_piece)
        )
        self._write_list(list(pieces), is_whole=False)

    def _write_list(self, pieces: Sequence[int], is_whole: bool) -> None:
        """Write samples.json, with the rows of these pieces behind those of other jobs."""
        job, header = self.job, self.job.header

        def rows() -> Iterator[dict[str, Any]]:
            for piece in pieces:
                if job.per_tar and piece in self.records:
                    yield job.tar_row(piece, self.records[piece])
                for row in () if job.per_tar else job.rows(job.indices(piece)):
                    if is_whole or self.has_file(row["index"]):
                        yield {"file": file_name(row["index"], job.format), **row}

        names = Names(claims=[(job.numbers, job.ending)])
        if not is_whole:
            header = {key: value for key, value in header.items() if key != "job"}
            names = Names(row["file"] for row in rows())
            if next(rows(), None) is None:
                self.path.unlink(missing_ok=True)  # nothing was begun
                return
        kept_rows = rows_beside(self.listing, header, job.key, names)
        write_listing(self.folder, header, itertools.chain(kept_rows, rows()), job.key)


def _ending_of(header: Mapping[str, Any]) -> str:
    """Of the names of a job's files, of its header."""
    return "tar" if header["job"]["per_tar"] else str(header["job"]["format"])


def _files_of_notes(folder: Path) -> list[Path]:
    """The files with notes in a folder, in order. `Path.glob` would keep all entries of the folder in memory."""
    return sorted(folder / name for name in names_in(folder) if _NOTES.fullmatch(name))


_NOTES = re.compile(r"samples\.\d+-of-\d+\.[0-9a-f]{8}\.part")


def _header_of(path: Path) -> dict[str, Any] | None:
    """The header of the job that notes are of; None: they are no notes, or gone."""
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) and identity_of(header) else None


def _notes(path: Path) -> Iterator[dict[str, Any]]:
    """What is noted in a file; a line that a killed process has left unfinished is passed over."""
    with contextlib.suppress(OSError), path.open(encoding="utf-8") as file:
        for line in itertools.islice(file, 1, None):
            with contextlib.suppress(ValueError):
                note = json.loads(line)
                if isinstance(note, dict) and isinstance(note.get("piece"), int):
                    yield note
