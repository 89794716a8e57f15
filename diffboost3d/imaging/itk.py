"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) volumes: reading by SimpleITK, and writing with a template's header.

Both have a text header, in the file of the voxels or in one of its own. What is written has the template's lines, word for
word, but for those that say how the voxels are stored; so geometry, units and keys of other programs survive.
Formats: https://teem.sourceforge.net/nrrd/format.html and https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import replacing
from diffboost3d.errors import DataError
from diffboost3d.imaging.geometry import Grid, grid_from_lps
from diffboost3d.imaging.slabs import fitting, stored

NRRD_ENDINGS = (".nrrd", ".nhdr")
META_ENDINGS = (".mha", ".mhd")
ITK_ENDINGS = NRRD_ENDINGS + META_ENDINGS
DETACHED = (".nhdr", ".mhd")  # the voxels are in a file of their own
LONGEST_HEADER = 1 << 20
PIECE = 1 << 20  # bytes that are unpacked at a time
META_NEEDED = ("NDims", "DimSize", "ElementType", "ElementDataFile")

NRRD_TYPES = {
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long int",
    "uint64": "unsigned long long int",
    "float32": "float",
    "float64": "double",
}
META_TYPES = {
    "int8": "MET_CHAR",
    "uint8": "MET_UCHAR",
    "int16": "MET_SHORT",
    "uint16": "MET_USHORT",
    "int32": "MET_INT",
    "uint32": "MET_UINT",
    "int64": "MET_LONG_LONG",
    "uint64": "MET_ULONG_LONG",
    "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}
# what says how voxels are stored, and is written anew; names in small letters without blanks
_NRRD_STORAGE = {"type", "endian", "encoding", "datafile", "lineskip", "byteskip", "blocksize", "min", "max"}
_NRRD_STORAGE |= {"oldmin", "oldmax"}
_META_STORAGE = {"objecttype", "ndims", "elementtype", "binarydata", "binarydatabyteordermsb", "elementbyteordermsb"}
_META_STORAGE |= {"compresseddata", "compresseddatasize", "compressionlevel", "headersize", "elementmin", "elementmax"}
_META_STORAGE |= {"elementdatafile"}
_SIZE_DIGITS = 20  # room for the size of packed voxels, which is known after they are written


@dataclass(frozen=True)
class Header:
    """What a file says of its voxels: grid, type, and the sizes with those that are 1 beyond the third."""

    grid: Grid
    dtype: str
    sizes: tuple[int, ...]


def reason_of(error: Exception) -> str:
    """The last line of what a decoder says, without addresses in memory, and names of its own files and functions."""
    said = [line.strip() for line in str(error).splitlines() if line.strip() not in ("", "Reason: Success")]
    last = said[-1] if said else type(error).__name__
    return re.sub(r"^\S*\.(?:cxx|hxx|h):\d+:\s*|\(0x[0-9a-f]+\)|^\[nrrd\] \w+: ", "", last).strip()


def _is_nrrd(path: Path) -> bool:
    return path.name.lower().endswith(NRRD_ENDINGS)


def read_header(path: Path) -> Header:
    """Read no voxels.

    Raises:
        DataError: damaged, of several values a voxel, of complex numbers, or of more than three dimensions.
    """
    return _header(path, _reader(path))


def read_itk(path: Path) -> tuple[NDArray[Any], Header]:
    """Voxels (I, J, K) in the file's order, and the header. Raises DataError as `read_header`, or where voxels are missing."""
    import SimpleITK as sitk  # noqa: N813

    reader = _reader(path)
    header = _header(path, reader)
    _require_voxels(path, header)
    try:
        array = sitk.GetArrayFromImage(reader.Execute()).T
    except (RuntimeError, MemoryError, ValueError) as error:
        raise DataError(f"{path}: can't be read ({reason_of(error)}); the file is damaged") from error
    return array.reshape(header.grid.shape), header


def _reader(path: Path) -> Any:
    """A reader that has read the header."""
    import SimpleITK as sitk  # noqa: N813

    if path.name.lower().endswith(META_ENDINGS):
        _require_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if _is_nrrd(path) else "MetaImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(f"{path}: can't be read ({reason_of(error)}); the file is damaged") from error
    return reader


def _header(path: Path, reader: Any) -> Header:
    import SimpleITK as sitk  # noqa: N813

    sizes = tuple(int(size) for size in reader.GetSize())
    if (values := reader.GetNumberOfComponents()) != 1:
        raise DataError(f"{path}: {values} values a voxel; give one 3D volume of one value a voxel a file")
    if any(size > 1 for size in sizes[3:]) or len(sizes) < 2 or 0 in sizes:
        shape = "x".join(map(str, sizes))
        raise DataError(f"{path}: {len(sizes)}D image of shape {shape}; give one 3D volume a file")
    names = {getattr(sitk, f"sitk{name[0].upper()}{name[1:]}"): name for name in ("int8", "int16", "int32", "int64")}
    names |= {getattr(sitk, f"sitkUInt{bits}"): f"uint{bits}" for bits in (8, 16, 32, 64)}
    names |= {sitk.sitkFloat32: "float32", sitk.sitkFloat64: "float64"}
    pixel = reader.GetPixelID()
    if pixel not in names:
        kind = sitk.GetPixelIDValueAsString(pixel)
        raise DataError(f"{path}: voxels of type {kind}; convert it to one grey value a voxel")
    grid = grid_from_lps(sizes, reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    return Header(grid, names[pixel], sizes)


def _meta_facts(lines: list[str]) -> dict[str, str]:
    return {_meta_name(line): line.partition("=")[2].strip() for line in lines}


def _require_header(path: Path) -> None:
    """Refuse what has no header of a MetaImage, of which ITK would print lines of its own. Raises DataError."""
    facts = _meta_facts(_text_header(path)[0])
    if lacking := [name for name in META_NEEDED if not facts.get(name.lower())]:
        raise DataError(f"{path}: can't be read (no {lacking[0]} in its header); the file is cut off or no MetaImage")
    sizes = facts["dimsize"].split()
    if not all(size.isdecimal() for size in sizes) or facts["ndims"] != str(len(sizes)):
        raise DataError(
            f"{path}: can't be read (DimSize = {facts['dimsize'][:40]} and NDims = {facts['ndims'][:40]} in its header); the "
            "file is damaged"
        )


def _require_voxels(path: Path, header: Header) -> None:
    """Refuse a MetaImage that ends too early or whose packed voxels are damaged: ITK would fill it up. Raises DataError."""
    if not path.name.lower().endswith(META_ENDINGS):
        return
    lines, length = _text_header(path)
    facts = _meta_facts(lines)
    listed = parts_of(path)
    if missing := [part.name for part in listed if not part.is_file()]:
        raise DataError(f"{path}: its voxels' file {missing[0]} is missing")
    if facts.get("binarydata", "True").lower() == "false":
        return
    needed = int(np.prod(header.sizes)) * np.dtype(header.dtype).itemsize
    if facts.get("compresseddata", "False").lower() == "true":
        if len(listed) <= 2:
            _require_packed(path, listed[-1], length if len(listed) == 1 else 0, needed)
        return
    there = sum(part.stat().st_size for part in listed) - listed[0].stat().st_size
    if len(listed) == 1:
        there = path.stat().st_size - length
    if there < needed:
        raise DataError(f"{path}: can't be read ({there} bytes of voxels instead of {needed}); the file is cut off")


def _require_packed(path: Path, data: Path, start: int, needed: int) -> None:
    """Unpack voxels piece by piece, and keep none of them. Raises DataError where they are damaged or too few."""
    unpack, there = zlib.decompressobj(wbits=47), 0  # zlib's or gzip's header, as ITK takes them
    try:
        with data.open("rb") as file:
            file.seek(start)
            while not unpack.eof and (block := file.read(PIECE)):
                while block and not unpack.eof:
                    there += len(unpack.decompress(block, PIECE))
                    block = unpack.unconsumed_tail
    except (OSError, zlib.error) as error:
        raise DataError(f"{path}: can't be read (its voxels can't be unpacked); the file is damaged") from error
    if there < needed:
        raise DataError(f"{path}: can't be read ({there} bytes of voxels instead of {needed}); the file is cut off")


# --- the files of an image -------------------------------------------------------------------------------------------
def parts_of(path: Path) -> list[Path]:
    """The files that an image is in, the header first; those of the voxels may be missing."""
    if not path.name.lower().endswith(ITK_ENDINGS):
        return [path]
    lines, _ = _text_header(path)
    is_nrrd = _is_nrrd(path)
    name_of = _nrrd_name if is_nrrd else _meta_name
    for number, line in enumerate(lines):
        if name_of(line) in ("datafile", "elementdatafile"):
            value = line.partition(":" if is_nrrd else "=")[2].strip()
            named = lines[number + 1 :] if value.split()[:1] == ["LIST"] else _numbered(value)
            return [path, *(path.parent / name.strip() for name in named if name.strip() not in ("", "LOCAL"))]
    return [path]


def _numbered(value: str) -> list[str]:
    """The file names of `slice%03d.raw 1 30 1`, or the one that it is."""
    words = value.split()
    if len(words) in (4, 5) and "%" in words[0] and all(re.fullmatch(r"-?\d+", word) for word in words[1:4]):
        first, last, step = (int(word) for word in words[1:4])
        if step and re.fullmatch(r"[^%]*%0?\d*d[^%]*", words[0]):
            return [words[0] % number for number in range(first, last + (1 if step > 0 else -1), step)]
    return [value]


def _text_header(path: Path) -> tuple[list[str], int]:
    """The lines of a header, without the blank one that ends NRRD's, and its length in bytes. Raises DataError."""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_HEADER)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    is_nrrd = _is_nrrd(path)
    end = re.search(rb"\r?\n\r?\n" if is_nrrd else rb"(?im)^\s*ElementDataFile\s*=\s*LOCAL\s*?\n", text)
    length = end.end() if end else len(text)
    return text[:length].decode("latin-1").strip().splitlines(), length


def _nrrd_name(line: str) -> str:
    """The field of a line in small letters without blanks; "" for comments and for keys of other programs."""
    name, colon, rest = line.partition(":")
    return "" if line.startswith("#") or not colon or rest.startswith("=") else name.replace(" ", "").lower()


def _meta_name(line: str) -> str:
    return line.partition("=")[0].strip().lower()


# --- writing ---------------------------------------------------------------------------------------------------------
def write_itk_like(
    path: Path,
    slabs: Iterable[NDArray[Any]],
    template: Path,
    note: str = "",
    own_type: np.dtype[Any] | None = None,
) -> None:
    """Write a volume, given in slabs (I, J, n) along k, with the header of `template`, of the same format; atomic.

    Where the header has a file of its own (.nhdr, .mhd), the voxels are written first, into `<stem>.raw` (packed: `.raw.gz`
    or `.zraw`) beside it, and the header last. Voxels are packed where the template's are; slabs are never held together.

    Args:
        note: in NRRD's `content`, in MetaImage's `Comment`.
        own_type: None: the template's.

    Raises:
        ValueError: another shape than the template's. DataError: the template can't be read.
    """
    is_nrrd = _is_nrrd(path)
    if is_nrrd != _is_nrrd(template):
        raise ValueError(
            f"{path.name} in the form of {template.name}: NRRD and MetaImage are not made from one another"
        )
    found = read_header(template)
    lines, _ = _text_header(template)
    dtype = np.dtype(found.dtype) if own_type is None else own_type
    make, packed = (_nrrd_lines, _is_packed_nrrd(lines)) if is_nrrd else (_meta_lines, _is_packed_meta(lines))
    parts = (stored(slab, dtype) for slab in fitting(slabs, found.grid.shape))
    if path.name.lower().endswith(DETACHED):
        data = path.with_name(path.name[: path.name.rindex(".")] + _raw_ending(is_nrrd, packed))
        with replacing(data) as temporary, temporary.open("wb") as file:
            size = _write_voxels(file, parts, packed, is_nrrd)
        header = make(lines, dtype, packed, data.name, note, own_type is not None, size)
        with replacing(path) as temporary:
            temporary.write_bytes(header)
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(make(lines, dtype, packed, "", note, own_type is not None, 0))
        size = _write_voxels(file, parts, packed, is_nrrd)
        file.seek(0)
        file.write(make(lines, dtype, packed, "", note, own_type is not None, size))


def _raw_ending(is_nrrd: bool, packed: bool) -> str:
    if not packed:
        return ".raw"
    return ".raw.gz" if is_nrrd else ".zraw"


def _is_packed_nrrd(lines: list[str]) -> bool:
    values = [line.partition(":")[2].strip().lower() for line in lines if _nrrd_name(line) == "encoding"]
    return values != ["raw"]


def _is_packed_meta(lines: list[str]) -> bool:
    return any(_meta_name(line) == "compresseddata" and "true" in line.lower() for line in lines)


def _write_voxels(file: BinaryIO, parts: Iterable[NDArray[Any]], packed: bool, is_nrrd: bool) -> int:
    """Write voxels, first axis fastest, little-endian; the number of bytes they take."""
    start = file.tell()
    blocks = (part.astype(part.dtype.newbyteorder("<"), copy=False).tobytes(order="F") for part in parts)
    if not packed:
        file.writelines(blocks)
    elif is_nrrd:
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
            for block in blocks:
                stream.write(block)
    else:
        squeeze = zlib.compressobj(6)
        for block in blocks:
            file.write(squeeze.compress(block))
        file.write(squeeze.flush())
    return file.tell() - start


def _nrrd_lines(
    lines: list[str], dtype: np.dtype[Any], packed: bool, data: str, note: str, is_other: bool, size: int
) -> bytes:
    dropped = {*_NRRD_STORAGE, *(["content"] if note else []), *(["sampleunits"] if is_other else [])}
    kept = _until(lines, _nrrd_name, "datafile")
    fields = [
        kept[0],
        f"type: {NRRD_TYPES[dtype.name]}",
        *(line for line in kept[1:] if _nrrd_name(line) not in dropped),
        *([f"content: {note}"] if note else []),
        "endian: little",
        f"encoding: {'gzip' if packed else 'raw'}",
        *([f"data file: {data}"] if data else []),
    ]
    return ("\n".join(fields) + ("\n" if data else "\n\n")).encode("latin-1", errors="replace")


def _meta_lines(
    lines: list[str], dtype: np.dtype[Any], packed: bool, data: str, note: str, is_other: bool, size: int
) -> bytes:
    scaling = ["elementtointensityfunctionslope", "elementtointensityfunctionoffset"] if is_other else []
    dropped = {*_META_STORAGE, *(["comment"] if note else []), *scaling}
    kept = _until(lines, _meta_name, "elementdatafile")
    dimensions = next(line.partition("=")[2].strip() for line in kept if _meta_name(line) == "ndims")
    fields = [
        "ObjectType = Image",
        *([f"Comment = {note}"] if note else []),
        f"NDims = {dimensions}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {packed}",
        *([f"CompressedDataSize = {size:0{_SIZE_DIGITS}d}"] if packed else []),
        *(line for line in kept if _meta_name(line) not in dropped),
        f"ElementType = {META_TYPES[dtype.name]}",
        f"ElementDataFile = {data or 'LOCAL'}",
    ]
    return ("\n".join(fields) + "\n").encode("latin-1", errors="replace")


def _until(lines: list[str], name_of: Any, last: str) -> list[str]:
    """The lines before the one that names the voxels' files, whose list may follow it."""
    at = next((number for number, line in enumerate(lines) if name_of(line) == last), len(lines))
    after = [] if last == "elementdatafile" or at == len(lines) or "LIST" in lines[at] else lines[at + 1 :]
    return [*lines[:at], *after]
