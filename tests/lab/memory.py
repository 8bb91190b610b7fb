# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory as the host sees it: back ends, huge pages, ranges."""

import contextlib
import ctypes
import fcntl
import itertools
import mmap
import os
import pathlib
import re
import struct
import threading
import weakref

from .basics import Failed, Refused, pid_alive

HUGE = 2 << 20
NR_HUGEPAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")
RESERVED = pathlib.Path("/run/remapd-lab")
PR_SET_THP_DISABLE = 41
MADV_POPULATE_WRITE = 23
PAGEMAP_SCAN = 0xc0606610
PM_SCAN_ARG = struct.Struct("=12Q") # struct pm_scan_arg of linux/fs.h
PAGE_REGION = struct.Struct("=3Q")  # struct page_region
PAGE_IS_PFNZERO, PAGE_IS_HUGE = 1 << 5, 1 << 6

# name: QEMU's memory object, but for its id and size; tmpfs has huge pages where
# somebody asks for them, which the host's memfds have if it is set so
BACKENDS = {
    "anon": "memory-backend-ram",
    "thp": "memory-backend-ram",
    "memfd": "memory-backend-memfd,share=on",
    "tmpfs": "memory-backend-file,share=on,mem-path={directory}/tmpfs",
    "hugetlb": "memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=on",
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_thp_lock = threading.Lock()


def check_backend(backend):
    if backend not in BACKENDS:
        raise Refused(f"BACKEND={backend}: allowed are {', '.join(BACKENDS)}")
    enabled = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if backend == "thp" and (not enabled.exists() or
                             "[never]" in enabled.read_text()):
        raise Refused(f"BACKEND=thp: {enabled} must be madvise or always")


class Warm:
    """Huge pages that this host really has, to be given to whoever asks next.

    A host that is a VM itself may have given free memory back to its own host
    (free page reporting). Whoever takes a free huge page then waits for the
    host's host, here about 5 s a GiB, and would be measured by that."""

    def __init__(self, size):
        # By libc: Python's own mmap lets no other thread run meanwhile, and
        # the guest's lines would wait.
        self.size = ctypes.c_size_t(size)
        self.memory = ctypes.c_void_p(_libc.mmap(
            None, self.size, mmap.PROT_READ | mmap.PROT_WRITE,
            mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0)))
        self.unmap = weakref.finalize(self, _libc.munmap, self.memory,
                                      self.size)
        for advice in (mmap.MADV_HUGEPAGE, MADV_POPULATE_WRITE):
            if _libc.madvise(self.memory, self.size, advice):
                raise Failed(f"{size} bytes of memory for the destination: "
                             f"{os.strerror(ctypes.get_errno())}")

    def give(self):
        self.unmap()


@contextlib.contextmanager
def thp_of(backend):
    """What is started inside gets no transparent huge pages where `backend`
    is anon: the flag is the process's own and passes through exec."""
    if backend != "anon":
        yield
        return
    with _thp_lock:
        _libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
        try:
            yield
        finally:
            _libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)


class HugePages:
    """The lab's share of the host's huge pages. Many labs add theirs to one
    number, hence the lock; a file says how many are whose."""

    def __init__(self):
        self.reserved = 0
        self.file = RESERVED / str(os.getpid())

    @staticmethod
    @contextlib.contextmanager
    def _locked():
        RESERVED.mkdir(exist_ok=True)
        with open(RESERVED / "lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _change(pages):
        before = int(NR_HUGEPAGES.read_text())
        NR_HUGEPAGES.write_text(str(max(before + pages, 0)))
        return int(NR_HUGEPAGES.read_text()) - before

    def reserve(self, nbytes):
        pages = -(-nbytes // HUGE)
        with self._locked():
            got = self._change(pages)
            if got < pages:
                self._change(-got)
                raise Refused(f"BACKEND=hugetlb: the host has {got} of the "
                              f"{pages} huge pages that the VMs need")
            self.reserved += pages
            self.file.write_text(str(self.reserved))

    def give_back(self):
        if not self.reserved:
            return
        with self._locked():
            self._change(-self.reserved)
            self.reserved = 0
            self.file.unlink()

    @classmethod
    def sweep(cls):
        """Gives back what labs whose process is gone had reserved."""
        with cls._locked():
            for file in RESERVED.glob("[0-9]*"):
                if not pid_alive(file.name):
                    cls._change(-int(file.read_text()))
                    file.unlink()


def huge_bytes(pid, blocks):
    """How much of these blocks, (hva, length) each, the process has mapped by
    huge pages."""
    total = 0
    inside = False
    with open(f"/proc/{pid}/smaps", encoding="ascii") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if head:
                start, end = int(head[1], 16), int(head[2], 16)
                inside = any(start < hva + length and hva < end
                             for hva, length in blocks)
            elif inside and line.startswith(
                    ("AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:",
                     "Shared_Hugetlb:", "Private_Hugetlb:")):
                total += int(line.split()[1]) << 10
    return total


def mappings(pid):
    """Of a process: start, end, and the file, by device and inode."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps:
        for line in maps:
            addresses, _, _, device, inode = line.split()[:5]
            yield *(int(a, 16) for a in addresses.split("-")), (device, inode)


def mapped_elsewhere(pid, hva, other):
    """Where `other` has mapped the file that is at an address of `pid`: blocks
    as in huge_bytes()."""
    file = next(file for start, end, file in mappings(pid) if start <= hva < end)
    return [(start, end - start) for start, end, mapped in mappings(other)
            if mapped == file]


def huge_granules(pid, hva, length):
    """Which granules of a block, by number, the process has mapped by huge
    pages: the set of those with memory, and of those that are the kernel's one
    huge page of zeros, which takes none and is in no line of smaps.
    Ref: PAGEMAP_SCAN in Documentation/admin-guide/mm/pagemap.rst, Linux 6.7."""
    regions = bytearray(4096 * PAGE_REGION.size)
    vector = (ctypes.c_char * len(regions)).from_buffer(regions)
    memory, zeros = set(), set()
    start = hva
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        while start < hva + length:
            argument = bytearray(PM_SCAN_ARG.pack(
                PM_SCAN_ARG.size, 0, start, hva + length, 0,
                ctypes.addressof(vector), 4096, 0, 0, PAGE_IS_HUGE, 0,
                PAGE_IS_HUGE | PAGE_IS_PFNZERO))
            try:
                found = fcntl.ioctl(pagemap, PAGEMAP_SCAN, argument)
            except OSError: # an older kernel
                return set(), set()
            start = PM_SCAN_ARG.unpack(argument)[4]
            for first, end, kind in itertools.islice(
                    PAGE_REGION.iter_unpack(regions), found):
                (zeros if kind & PAGE_IS_PFNZERO else memory).update(
                    range((first - hva) // HUGE, (end - hva) // HUGE))
    return memory, zeros


def read_block(pid, hva, length):
    """Yields the memory of a block in pieces of at most 2 MiB."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for offset in range(0, length, HUGE):
            yield os.pread(memory.fileno(), min(HUGE, length - offset),
                           hva + offset)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def read_memory(pid, address, length):
    """Reads another process's memory, as far as there is some, and waits where a
    userfaultfd has it wait; the pages are pinned until all have been read."""
    local = ctypes.create_string_buffer(length)
    here = _Iovec(ctypes.addressof(local), length)
    there = _Iovec(address, length)
    return _libc.process_vm_readv(pid, ctypes.byref(here), 1,
                                  ctypes.byref(there), 1, 0)
