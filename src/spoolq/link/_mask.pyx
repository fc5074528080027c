# cython: boundscheck=False, wraparound=False, cdivision=True
"""WebSocket client frames of stored messages, compiled body; `mask_plain` is the twin.

stored frame      u32 CRC-32C, i32 length, payload                                  (slot.md 2.3)
WebSocket frame   82, 80|length | FE, u16 BE | FF, u64 BE; 4 bytes mask; payload XOR mask

`pack_run` walks a run twice: once for the lengths, which are bound-checked, and the size of what
comes out, then, without the GIL, to write it.  The output is held by a buffer view meanwhile, so that
nobody can resize it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from spoolq.errors import StorageError

BINARY = 0x82


cdef inline uint64_t step(uint64_t x) noexcept nogil:
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    return x


cdef inline uint32_t word(uint64_t x) noexcept nogil:
    return <uint32_t>((x * <uint64_t>0x2545F4914F6CDD1D) >> 32)


cdef inline Py_ssize_t head_nbytes(Py_ssize_t length) noexcept nogil:
    return 6 if length < 126 else 8 if length < 65536 else 14


cdef uint8_t* put_frame(uint8_t* to, uint8_t opcode, const uint8_t* payload, Py_ssize_t length, uint32_t key) noexcept nogil:
    """One frame; where the next one goes."""
    cdef Py_ssize_t index, words
    cdef uint64_t wide = (<uint64_t>key << 32) | key, block
    cdef uint8_t* mask = <uint8_t*>&key
    to[0] = opcode
    if length < 126:
        to[1] = <uint8_t>(0x80 | length)
        to += 2
    elif length < 65536:
        to[1] = 0xFE
        to[2] = <uint8_t>(length >> 8)
        to[3] = <uint8_t>length
        to += 4
    else:
        to[1] = 0xFF
        for index in range(8):
            to[2 + index] = <uint8_t>(<uint64_t>length >> (56 - 8 * index))
        to += 10
    memcpy(to, mask, 4)
    to += 4
    words = length >> 3
    for index in range(words):
        memcpy(&block, payload + 8 * index, 8)
        block ^= wide
        memcpy(to + 8 * index, &block, 8)
    for index in range(8 * words, length):
        to[index] = payload[index] ^ mask[index & 3]
    return to + length


cdef class MaskKeys:
    """xorshift64*: the masks of one connection, from a seed."""

    cdef uint64_t _state

    def __init__(self, seed):
        self._state = <uint64_t>(seed & 0xFFFFFFFFFFFFFFFF) or 1

    @property
    def state(self):
        return self._state

    def next(self):
        """Four bytes."""
        cdef uint32_t key
        self._state = step(self._state)
        key = word(self._state)
        return (<const char*>&key)[:4]


def frame(opcode_byte, payload, key):
    """One masked frame with the shortest length form."""
    cdef Py_buffer source
    cdef uint32_t mask
    cdef uint8_t opcode = opcode_byte
    if len(key) != 4:
        raise ValueError("a mask has 4 bytes")
    memcpy(&mask, <const char*>key, 4)
    PyObject_GetBuffer(payload, &source, PyBUF_SIMPLE)
    try:
        made = PyBytes_FromStringAndSize(NULL, head_nbytes(source.len) + source.len)
        put_frame(<uint8_t*>PyBytes_AS_STRING(made), opcode, <const uint8_t*>source.buf, source.len, mask)
        return made
    finally:
        PyBuffer_Release(&source)


def pack_run(data, MaskKeys keys not None, bytearray out not None, max_frame_nbytes=None):
    """Appends a WebSocket frame for each stored frame in ``data``; their number."""
    cdef Py_buffer source, target
    cdef Py_ssize_t most = -1 if max_frame_nbytes is None else min(max_frame_nbytes, <Py_ssize_t>0x7FFFFFFF)
    cdef Py_ssize_t count = 0, end = 0, added = 0, before = len(out)
    cdef bint whole
    PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
    try:
        count = measure(<const uint8_t*>source.buf, source.len, most, &end, &added)
        if not count:
            return 0
        PyByteArray_Resize(out, before + added)
        PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
        try:
            with nogil:
                whole = write(<uint8_t*>target.buf + before, added, <const uint8_t*>source.buf, end, &keys._state)
        finally:
            PyBuffer_Release(&target)
        if not whole:
            PyByteArray_Resize(out, before)
            raise StorageError("stored frames changed while they were read; the memory of the spool was overwritten")
        return count
    finally:
        PyBuffer_Release(&source)


cdef Py_ssize_t measure(
    const uint8_t* data, Py_ssize_t nbytes, Py_ssize_t most, Py_ssize_t* end, Py_ssize_t* added
) except -1:
    """Number of frames up to the first above ``most``; where they end, and what they take as WebSocket frames."""
    cdef Py_ssize_t offset = 0, count = 0, size = 0
    cdef int32_t length
    while offset < nbytes:
        length = -1
        if nbytes - offset >= 8:
            memcpy(&length, data + offset + 4, 4)
        if length < 0 or length > nbytes - offset - 8:
            raise StorageError(f"a stored frame has the length {length}; the memory of the spool was overwritten")
        if most >= 0 and length > most:
            break
        size += head_nbytes(length) + length
        offset += 8 + length
        count += 1
    end[0] = offset
    added[0] = size
    return count


cdef bint write(uint8_t* to, Py_ssize_t room, const uint8_t* data, Py_ssize_t end, uint64_t* state) noexcept nogil:
    """The frames of ``data[:end]``; False when a length is no longer what `measure` saw."""
    cdef Py_ssize_t offset = 0
    cdef int32_t length
    while offset < end:
        memcpy(&length, data + offset + 4, 4)
        if length < 0 or length > end - offset - 8 or length > room - head_nbytes(length):
            return False
        room -= head_nbytes(length) + length
        state[0] = step(state[0])
        to = put_frame(to, 0x82, data + offset + 8, length, word(state[0]))
        offset += 8 + length
    return room == 0
