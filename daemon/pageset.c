/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pageset.h"

#include <string.h>
#include <sys/mman.h>

#include "util.h"

uint64_t pageset_words(uint64_t pages)
{
    return (pages + 63) / 64 + 1; /* one more: a get may look past the end */
}

void pageset_init(struct pageset *set, uint64_t pages)
{
    void *words = mmap(NULL, pageset_words(pages) * 8, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (words == MAP_FAILED)
        abort();
    *set = (struct pageset){.words = words, .pages = pages};
}

void pageset_keep(struct pageset *set, uint64_t pages, uint64_t *words)
{
    *set = (struct pageset){
        .words = (_Atomic uint64_t *)words, .pages = pages, .kept = true};
    pageset_fill(set, set, NULL);
}

void pageset_fini(struct pageset *set)
{
    if (set->words && !set->kept)
        munmap(set->words, pageset_words(set->pages) * 8);
    *set = (struct pageset){0};
}

uint64_t pageset_bytes(const struct pageset *set)
{
    return set->words ? pageset_words(set->pages) * 8 : 0;
}

void pageset_add(struct pageset *set, uint64_t first, uint64_t pages)
{
    uint64_t added = 0;

    for (uint64_t page = first; page < first + pages;) {
        unsigned bit = page % 64;
        unsigned run = (unsigned)MIN(64 - bit, first + pages - page);
        uint64_t bits = (run == 64 ? ~0ull : (1ull << run) - 1) << bit;
        uint64_t old = atomic_fetch_or(&set->words[page / 64], bits);

        added += (uint64_t)__builtin_popcountll(bits & ~old);
        page += run;
    }
    atomic_fetch_add(&set->count, added);
}

void pageset_fill(struct pageset *set, const struct pageset *from,
                  const struct pageset *except)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < pageset_words(set->pages); i++) {
        uint64_t old = atomic_load(&set->words[i]);
        uint64_t bits = from ? atomic_load(&from->words[i]) : 0;

        if (except)
            bits &= ~atomic_load(&except->words[i]);
        count += (uint64_t)__builtin_popcountll(bits);
        if (bits != old) /* memory that nobody has written takes none */
            atomic_store(&set->words[i], bits);
    }
    atomic_store(&set->count, count);
}

bool pageset_has(const struct pageset *set, uint64_t page)
{
    return page < set->pages &&
           atomic_load(&set->words[page / 64]) >> page % 64 & 1;
}

uint64_t pageset_count(const struct pageset *set)
{
    return atomic_load(&set->count);
}

unsigned pageset_get(const struct pageset *set, uint64_t first, unsigned pages,
                     uint64_t *mask)
{
    unsigned shift = first % 64;

    mask_fill(mask, pages);
    for (unsigned i = 0; i < (pages + 63) / 64; i++) {
        uint64_t bits = atomic_load(&set->words[first / 64 + i]) >> shift;

        if (shift)
            bits |= atomic_load(&set->words[first / 64 + i + 1])
                    << (64 - shift);
        mask[i] &= bits;
    }
    return mask_count(mask);
}

/* Clear @wanted in one word; return those that were set. */
static uint64_t take_word(_Atomic uint64_t *word, uint64_t wanted)
{
    return wanted ? atomic_fetch_and(word, ~wanted) & wanted : 0;
}

unsigned pageset_take(struct pageset *set, uint64_t first, unsigned pages,
                      uint64_t *mask)
{
    unsigned shift = first % 64, taken = 0;

    for (unsigned i = 0; i < (pages + 63) / 64; i++) {
        _Atomic uint64_t *word = &set->words[first / 64 + i];
        uint64_t wanted = mask[i];

        mask[i] = take_word(word, wanted << shift) >> shift;
        if (shift)
            mask[i] |= take_word(word + 1, wanted >> (64 - shift))
                       << (64 - shift);
        taken += (unsigned)__builtin_popcountll(mask[i]);
    }
    if (taken)
        atomic_fetch_sub(&set->count, taken);
    return taken;
}

uint64_t pageset_next(const struct pageset *set, uint64_t from)
{
    uint64_t word, bits;

    if (from >= set->pages)
        return set->pages;
    word = from / 64;
    bits = atomic_load(&set->words[word]) & ~0ull << from % 64;
    while (!bits) {
        if (++word * 64 >= set->pages)
            return set->pages;
        bits = atomic_load(&set->words[word]);
    }
    return MIN(word * 64 + (unsigned)__builtin_ctzll(bits), set->pages);
}

static unsigned mask_scan(const uint64_t *mask, unsigned pages, unsigned from,
                          uint64_t flip)
{
    while (from < pages) {
        uint64_t bits = (mask[from / 64] ^ flip) >> from % 64;

        if (bits)
            return MIN(from + (unsigned)__builtin_ctzll(bits), pages);
        from += 64 - from % 64;
    }
    return pages;
}

unsigned mask_run(const uint64_t *mask, unsigned pages, unsigned from,
                  unsigned *end)
{
    unsigned start = mask_scan(mask, pages, from, 0);

    *end = mask_scan(mask, pages, start, ~0ull);
    return start;
}

unsigned mask_iovecs(const uint64_t *mask, unsigned pages, const void *base,
                     struct iovec *iov)
{
    unsigned count = 0, end;

    for (unsigned run = mask_run(mask, pages, 0, &end); run < pages;
         run = mask_run(mask, pages, end, &end))
        iov[count++] = (struct iovec){(uint8_t *)(uintptr_t)base +
                                          (size_t)run * PAGE_BYTES,
                                      (size_t)(end - run) * PAGE_BYTES};
    return count;
}

void mask_fill(uint64_t *mask, unsigned pages)
{
    memset(mask, 0, PAGESET_MASK_WORDS * 8);
    for (unsigned i = 0; i < pages / 64; i++)
        mask[i] = ~0ull;
    if (pages % 64)
        mask[pages / 64] = (1ull << pages % 64) - 1;
}

unsigned mask_count(const uint64_t *mask)
{
    unsigned count = 0;

    for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++)
        count += (unsigned)__builtin_popcountll(mask[i]);
    return count;
}
