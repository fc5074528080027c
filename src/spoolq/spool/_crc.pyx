"""CRC-32C, compiled body; `crc` says what it is."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t

from fastcrc.crc32 import iscsi

cdef extern from "spoolq/spool/crc32c.h" nogil:
    void spoolq_crc_init()
    uint32_t spoolq_crc32c(const unsigned char* data, size_t nbytes, uint32_t crc)
    uint32_t spoolq_crc32c_table(const unsigned char* data, size_t nbytes, uint32_t crc)

spoolq_crc_init()

cdef Py_ssize_t large_nbytes = 1024  # from here on fastcrc is faster, its call included


def crc32c(data, uint32_t previous=0):
    """CRC-32C of ``data``, going on from ``previous``."""
    cdef Py_buffer source
    PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
    try:
        if source.len >= large_nbytes:
            return iscsi(data, previous)
        return spoolq_crc32c(<const unsigned char*>source.buf, source.len, previous)
    finally:
        PyBuffer_Release(&source)


def crc32c_by_table(data, uint32_t previous=0):
    """What a CPU without the instruction computes."""
    cdef Py_buffer source
    PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
    try:
        return spoolq_crc32c_table(<const unsigned char*>source.buf, source.len, previous)
    finally:
        PyBuffer_Release(&source)
