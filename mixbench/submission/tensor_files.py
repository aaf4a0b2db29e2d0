"""Tensor files that a stranger wrote: their headers are judged before anything of their size is allocated."""

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
from jaxtyping import Float32, Int64
from safetensors.numpy import load

from mixbench.errors import RecordError
from mixbench.submission.strict_json import check_json

_LONGEST_HEADER = 2**20
_DECODER_MEMORY = 2**27
_CHUNK = 2**20
# Header and alignment; the header of two tensors takes some 200 bytes.
_SLACK = 4096


@dataclass(frozen=True)
class TensorHeader:
    """Shape and safetensors' name of the type of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_headers(path: Path) -> Mapping[str, TensorHeader]:
    """Return the header of each tensor in `path` without reading the tensors; raises RecordError.

    The library checks that the tensors fill the file exactly and do not overlap.
    """
    with path.open("rb") as file:
        head = file.read(9)
        length = int.from_bytes(head[:8], "little")
        if head[8:9] != b"{" or length > _LONGEST_HEADER:
            raise RecordError(
                f"{path.name} is not a safetensors file (it begins with {head[:8].hex()}): save the tensors with the"
                " safetensors library; pickles are never read"
            )
        check_json(b"{" + file.read(length - 1), source=f"the header of {path.name}", limit=_LONGEST_HEADER)
    try:
        with safetensors.safe_open(path, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - it is no mapping
            return {name: TensorHeader(cut.get_dtype(), tuple(cut.get_shape())) for name, cut in sorted(slices.items())}
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        raise RecordError(f"{path.name} is not a sound safetensors file ({error}): save the tensors again") from None


def packed(content: bytes) -> bytes:
    """Return `content` compressed, as `xz` does."""
    return lzma.compress(content, format=lzma.FORMAT_XZ)


def unpack(path: Path, target: Path, *, limit: int) -> None:
    """Write what the xz file at `path` holds to `target`; raises RecordError if that is over `limit` bytes.

    Nothing over the limit is ever decompressed, and the decoder gets 128 MiB of memory.
    """
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY)
    written = 0
    try:
        with path.open("rb") as source, target.open("wb") as file:
            while not decoder.eof:
                chunk = source.read(_CHUNK) if decoder.needs_input else b""
                if decoder.needs_input and not chunk:
                    raise RecordError(f"{path.name} ends too early: compress the adversarial examples again")
                plain = decoder.decompress(chunk, max_length=_CHUNK)
                written += len(plain)
                if written > limit:
                    raise RecordError(
                        f"{path.name} unpacks to more than {limit} bytes, which its broken examples cannot fill:"
                        " compress the adversarial examples again"
                    )
                file.write(plain)
            if decoder.unused_data or source.read(1):
                raise RecordError(f"{path.name} goes on after its end: compress the adversarial examples again")
    except (lzma.LZMAError, MemoryError) as error:
        raise RecordError(f"{path.name} is not an xz file ({error}): compress the examples again") from None


@dataclass(frozen=True, eq=False)
class Adversarials:
    """The adversarial images of a record and the index in the split of the example each was made from."""

    indices: Int64[np.ndarray, " broken"]
    images: Float32[np.ndarray, "broken channel height width"]


def adversarials_size(broken: int, image_size: tuple[int, int, int]) -> int:
    """Return the most bytes that the unpacked adversarial images of `broken` examples may take."""
    return broken * (4 * int(np.prod(image_size)) + 8) + _SLACK


def read_adversarials(path: Path, *, broken: int, image_size: tuple[int, int, int]) -> Adversarials:
    """Return the tensors in `path`; raises RecordError unless they are float32 images of `broken` examples."""
    expected = {"images": TensorHeader("F32", (broken, *image_size)), "index": TensorHeader("I64", (broken,))}
    found = read_headers(path)
    if found != expected:
        raise RecordError(f"{path.name} holds {describe(found)}, expected {describe(expected)}: pack the record again")
    tensors = load(path.read_bytes())
    return Adversarials(indices=tensors["index"], images=tensors["images"])


def describe(headers: Mapping[str, TensorHeader]) -> str:
    """Return up to four headers in words."""
    listed = [f"{name[:40]} ({header.dtype}, {'x'.join(map(str, header.shape))})" for name, header in headers.items()][
        :4
    ]
    return ", ".join(listed) + (f" and {len(headers) - 4} more" if len(headers) > 4 else "")  # noqa: PLR2004
