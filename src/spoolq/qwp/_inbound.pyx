"""The passes over received bytes, compiled body; `inbound_plain` says what each does."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy


def unmask(const unsigned char[::1] data not None, bytes mask not None):
    cdef Py_ssize_t nbytes = data.shape[0], at = 0
    cdef uint32_t four
    cdef uint64_t eight, piece
    cdef unsigned char* out
    cdef const unsigned char* source
    cdef const unsigned char* key
    if len(mask) != 4:
        raise ValueError("a mask has 4 bytes")
    result = PyBytes_FromStringAndSize(NULL, nbytes)
    if nbytes == 0:
        return result
    out, source = <unsigned char*>PyBytes_AS_STRING(result), &data[0]
    key = <const unsigned char*>PyBytes_AS_STRING(mask)
    with nogil:
        memcpy(&four, key, 4)
        eight = (<uint64_t>four << 32) | four
        while at + 8 <= nbytes:
            memcpy(&piece, source + at, 8)
            piece ^= eight
            memcpy(out + at, &piece, 8)
            at += 8
        while at < nbytes:
            out[at] = source[at] ^ key[at & 3]
            at += 1
    return result


def varints_end(const unsigned char[::1] data not None, Py_ssize_t offset, Py_ssize_t count):
    cdef Py_ssize_t at = offset, end = data.shape[0], index
    cdef uint64_t value, largest = 0
    cdef int shift
    cdef unsigned char byte = 0
    if offset < 0 or offset > end or count < 0:
        raise ValueError("not inside the data")
    for index in range(count):
        value, shift = 0, 0
        while True:
            if at >= end:
                return -1, 0
            byte = data[at]
            at += 1
            if shift == 63 and byte > 1:
                return -2, 0
            value |= <uint64_t>(byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if value > largest:
            largest = value
    return at, largest


def varints(const unsigned char[::1] data not None, Py_ssize_t offset, Py_ssize_t count):
    cdef Py_ssize_t at = offset, end = data.shape[0], index
    cdef uint64_t value
    cdef int shift
    cdef list found = [None] * count
    for index in range(count):
        value, shift = 0, 0
        while True:
            if at < 0 or at >= end or shift > 63:
                raise ValueError("not inside the data")
            value |= <uint64_t>(data[at] & 0x7F) << shift
            at += 1
            if data[at - 1] < 0x80:
                break
            shift += 7
        found[index] = value
    return found


def offsets_rise(const unsigned char[::1] offsets not None):
    cdef Py_ssize_t count = offsets.shape[0] // 4, index
    cdef uint32_t before = 0, now
    for index in range(count):
        memcpy(&now, &offsets[4 * index], 4)
        if now < before:
            return False
        before = now
    return True


def cuts_between_characters(const unsigned char[::1] offsets not None, const unsigned char[::1] text not None):
    cdef Py_ssize_t count = offsets.shape[0] // 4, nbytes = text.shape[0], index
    cdef uint32_t at
    for index in range(count):
        memcpy(&at, &offsets[4 * index], 4)
        if <Py_ssize_t>at < nbytes and text[at] & 0xC0 == 0x80:
            return False
    return True


cdef int* widths = [0, 7, 9, 12, 32]  # value bits behind so many ones (wire.md 4.5)


def gorilla_end(const unsigned char[::1] data not None, Py_ssize_t offset, Py_ssize_t count):
    cdef Py_ssize_t first = count if count < 2 else 2, base, at = 0, limit, index
    cdef int ones
    if offset < 0 or offset > data.shape[0] or count < 0:
        raise ValueError("not inside the data")
    if (data.shape[0] - offset) // 8 < first:
        return -1
    base = offset + 8 * first
    limit = 8 * (data.shape[0] - base)
    with nogil:
        for index in range(count - 2):
            ones = 0
            while ones < 4 and at + ones < limit and data[base + (at + ones) // 8] >> ((at + ones) & 7) & 1:
                ones += 1
            at += (ones + 1 if ones < 4 else 4) + widths[ones]
            if at > limit:
                break
    return base + (at + 7) // 8 if at <= limit else -1
