/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory of a guest that guestless.c stands in for: its kinds, and the
 * pattern in it. Uses the program's `options` and fail().
 */
#ifndef GUESTLESS_MEMORY_H
#define GUESTLESS_MEMORY_H

/* One block; both processes lay theirs out alike. */
struct memory {
    uint8_t *base;
    unsigned long bytes, page_bytes;
    int fd;
    bool shared;
};

static struct memory memories[MAX_BLOCKS];
static unsigned long total_pages;

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* ---- the pattern ---- */

/* In larger pages, all of a page is zero or none of it; so are holes. */
static bool page_is_zero(unsigned long page)
{
    unsigned long unit = memories[0].page_bytes / PAGE;

    if (mix(options.seed * 13 + page / (HUGE / PAGE)) % 100 <
        options.hole_percent)
        return true;
    return mix(options.seed * 31 + page / unit) % 100 < options.zero_percent;
}

/* Was the page sent by pre-copy, so that the destination has it already? */
static bool page_is_left(unsigned long page)
{
    unsigned long unit = memories[0].page_bytes / PAGE;

    return mix(options.seed * 77 + page / unit) % 100 < options.left_percent;
}

static uint64_t page_word(unsigned long page, unsigned long generation,
                          unsigned word)
{
    if (!generation && page_is_zero(page))
        return 0;
    return (mix(options.seed ^ page << 20 ^ generation << 50) | 1) + word;
}

static void page_write(uint64_t *words, unsigned long page,
                       unsigned long generation)
{
    for (unsigned i = 0; i < PAGE / 8; i++)
        words[i] = page_word(page, generation, i);
}

static bool page_good(const uint64_t *words, unsigned long page,
                      unsigned long generation)
{
    uint64_t first = page_word(page, generation, 0);
    uint64_t step = first ? 1 : 0;

    for (unsigned i = 0; i < PAGE / 8; i++) {
        if (words[i] != first + i * step)
            return false;
    }
    return true;
}

static uint64_t *page_at(unsigned long page)
{
    for (unsigned i = 0; i < options.blocks; i++) {
        unsigned long pages = memories[i].bytes / PAGE;

        if (page < pages)
            return (uint64_t *)(memories[i].base + page * PAGE);
        page -= pages;
    }
    abort();
}

/* ---- memory of each kind ---- */

static void memory_make(struct memory *memory, unsigned index,
                        unsigned long bytes)
{
    bool hugetlb = !strncmp(options.kind, "hugetlb", 7);
    unsigned flags = MFD_ALLOW_SEALING | (hugetlb ? MFD_HUGETLB : 0);

    memory->page_bytes = hugetlb ? HUGE : PAGE;
    memory->bytes = (bytes + HUGE - 1) / HUGE * HUGE;
    if (options.odd && !hugetlb)
        memory->bytes -= (2 * index + 1) * PAGE;
    memory->shared = !strcmp(options.kind, "memfd") ||
                     !strcmp(options.kind, "hugetlb-shared") ||
                     (!strcmp(options.kind, "mixed") && index % 2);
    memory->fd = -1;
    if (memory->shared) {
        memory->fd = memfd_create("guest", flags);
        if (memory->fd < 0 || ftruncate(memory->fd, (off_t)memory->bytes) ||
            fcntl(memory->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
            fail("memfd");
        memory->base = mmap(NULL, memory->bytes, PROT_READ | PROT_WRITE,
                            MAP_SHARED, memory->fd, 0);
    } else {
        uint8_t *at = mmap(NULL, memory->bytes + HUGE, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        at = (uint8_t *)(((uintptr_t)at + HUGE - 1) / HUGE * HUGE);
        memory->base = mmap(at, memory->bytes, PROT_READ | PROT_WRITE,
                            MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS |
                                MAP_NORESERVE |
                                (hugetlb ? MAP_HUGETLB : 0),
                            -1, 0);
        if (!hugetlb)
            madvise(memory->base, memory->bytes, MADV_NOHUGEPAGE);
    }
    if (memory->base == MAP_FAILED)
        fail("guest memory (hugetlb: are there enough huge pages?)");
}

/* At the destination only once its holes are registered: before, a huge page
 * would fill them with zeros. */
static void huge_pages_on(void)
{
    if (strcmp(options.kind, "thp"))
        return;
    for (unsigned i = 0; i < options.blocks; i++)
        madvise(memories[i].base, memories[i].bytes, MADV_HUGEPAGE);
}

/* Kind template: of the source's memory, as it is now, nothing was ever
 * touched: it is a file's that is mapped privately. */
static void memory_from_file(struct memory *memory)
{
    int fd = memfd_create("template", 0);

    if (fd < 0 ||
        pwrite(fd, memory->base, memory->bytes, 0) != (ssize_t)memory->bytes ||
        mmap(memory->base, memory->bytes, PROT_READ | PROT_WRITE,
             MAP_FIXED | MAP_PRIVATE, fd, 0) == MAP_FAILED)
        fail("template");
    close(fd);
}

static void memory_from_files(void)
{
    if (strcmp(options.kind, "template"))
        return;
    for (unsigned i = 0; i < options.blocks; i++)
        memory_from_file(&memories[i]);
}

static void memory_make_all(void)
{
    unsigned long each = (options.mib << 20) / options.blocks;

    for (unsigned i = 0; i < options.blocks; i++) {
        memory_make(&memories[i], i, each);
        total_pages += memories[i].bytes / PAGE;
    }
}

#endif
