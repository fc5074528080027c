"""A file's bytes as memory, compiled body; `mapping_plain` says what each name does.

The calls that can wait for a disk (map, sync, populate, unmap) run without the GIL, which
``mmap.mmap`` and ``mmap.flush`` keep (design.md 3).  `populate` makes every page present and writable
(MADV_POPULATE_WRITE), so that a full disk is an error there and never a SIGBUS at a store.

``users`` counts buffers and calls under way; `close` with one of them left raises BufferError.

A forked child puts zeros of its own in the place of each mapping (`let_go`): the file is not mapped there any more, and
whoever still has an address in it reads and writes what nobody looks at.
"""

import errno
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EINTR, EINVAL, ENOSYS
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <unistd.h>

    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23
    #endif

    static int spoolq_populate(void *start, size_t nbytes) {
    #ifdef __linux__
        return madvise(start, nbytes, MADV_POPULATE_WRITE);
    #else
        (void)start; (void)nbytes;
        errno = EINVAL;
        return -1;
    #endif
    }

    static int spoolq_let_go(void *start, size_t nbytes) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    #ifdef MAP_NORESERVE
        flags |= MAP_NORESERVE;
    #endif
        return mmap(start, nbytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED;
    }

    static int spoolq_reserve(int fd, int64_t nbytes) {
    #ifdef __linux__
        return fallocate(fd, 0, 0, nbytes) ? errno : 0;
    #else
        (void)fd; (void)nbytes;
        return EOPNOTSUPP;
    #endif
    }
    """
    int spoolq_populate(void* start, size_t nbytes) nogil
    int spoolq_reserve(int fd, int64_t nbytes) nogil
    int spoolq_let_go(void* start, size_t nbytes) nogil

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t nbytes, int protection, int flags, int fd, int64_t offset)
    int munmap(void* address, size_t nbytes)
    int msync(void* address, size_t nbytes, int flags)
    void* MAP_FAILED
    int PROT_READ
    int PROT_WRITE
    int MAP_SHARED
    int MS_SYNC

cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    int _SC_PAGESIZE

cdef dict regions = {}  # what is mapped: bytes by address
cdef Py_ssize_t page_nbytes = sysconf(_SC_PAGESIZE)


cdef object _system_error(int number):
    return OSError(number, os.strerror(number))


cdef class Mapping:
    """The first ``nbytes`` of an open file, shared and writable."""

    direct = True

    def __cinit__(self, int fd, Py_ssize_t nbytes):
        cdef void* start
        if nbytes < 1:
            raise OSError(errno.EINVAL, "a mapping has at least one byte")
        with nogil:
            start = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if start == MAP_FAILED:
            raise _system_error(c_errno)
        self.start = <unsigned char*>start
        self.nbytes = nbytes
        regions[<size_t>start] = nbytes

    def __dealloc__(self):
        if self.start != NULL:
            regions.pop(<size_t>self.start, None)
            munmap(self.start, self.nbytes)

    @property
    def closed(self):
        return self.start == NULL

    cdef int _check(self, Py_ssize_t offset, Py_ssize_t nbytes) except -1:
        if self.start == NULL:
            raise OSError(errno.EBADF, "the mapping is closed")
        if offset < 0 or nbytes < 0 or nbytes > self.nbytes or offset > self.nbytes - nbytes:
            raise OSError(
                errno.EFAULT, f"bytes {offset} to {offset + nbytes} are outside a mapping of {self.nbytes} bytes"
            )
        return 0

    def store(self, Py_ssize_t offset, data):
        cdef Py_buffer source
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            self._check(offset, source.len)
            self.users += 1
            with nogil:
                memcpy(self.start + offset, source.buf, source.len)
            self.users -= 1
        finally:
            PyBuffer_Release(&source)

    def load(self, Py_ssize_t offset, Py_ssize_t nbytes):
        self._check(offset, nbytes)
        return PyBytes_FromStringAndSize(<char*>self.start + offset, nbytes)

    def sync(self, Py_ssize_t offset, Py_ssize_t nbytes):
        cdef Py_ssize_t first
        cdef int failed
        self._check(offset, nbytes)
        first = offset - offset % page_nbytes
        self.users += 1
        with nogil:
            failed = msync(self.start + first, offset + nbytes - first, MS_SYNC)
        self.users -= 1
        if failed:
            raise _system_error(c_errno)

    def populate(self):
        cdef int failed
        self._check(0, 0)
        self.users += 1
        with nogil:
            failed = spoolq_populate(self.start, self.nbytes)
            while failed and c_errno == EINTR:
                failed = spoolq_populate(self.start, self.nbytes)
        self.users -= 1
        if failed and c_errno not in (EINVAL, ENOSYS):  # a kernel without it: the blocks are reserved all the same
            raise _system_error(c_errno)

    def close(self):
        cdef unsigned char* start = self.start
        if start == NULL:
            return
        if self.users:
            raise BufferError(f"{self.users} users of the mapping are left")
        self.start = NULL
        regions.pop(<size_t>start, None)  # before: another thread may be given the address at once
        with nogil:
            munmap(start, self.nbytes)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        self._check(0, 0)
        PyBuffer_FillInfo(buffer, self, self.start, self.nbytes, 0, flags)
        self.users += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.users -= 1


def let_go():
    """In a forked child: every mapping so far is the parent's, and none of its files stays mapped."""
    cdef size_t start
    cdef Py_ssize_t nbytes
    for start, nbytes in regions.items():
        spoolq_let_go(<void*>start, nbytes)
    regions.clear()


def live_mappings():
    """How many mappings are open in this process."""
    return len(regions)


def reserve_blocks(int fd, int64_t nbytes):
    """fallocate(2) of the first ``nbytes``; 0 or the errno."""
    cdef int number = EINTR
    if nbytes < 1:
        return 0
    while number == EINTR:
        with nogil:
            number = spoolq_reserve(fd, nbytes)
    return number
