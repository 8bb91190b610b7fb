/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pagemap.h"

#include <string.h>

#include "util.h"

void pagemap_init(struct pagemap *map, uint64_t pages, uint64_t *missing,
                  uint64_t *received, struct stats *stats)
{
    pageset_keep(&map->missing, pages, missing);
    pageset_keep(&map->received, pages, received);
    pageset_init(&map->unclaimed, pages);
    pageset_init(&map->unrequested, pages);
    pthread_mutex_init(&map->lock, NULL);
    for (unsigned i = 0; i < PAGEMAP_LOCKS; i++)
        pthread_mutex_init(&map->granules[i], NULL);
    map->stats = stats;
    map->fault_count = 0;
    pagemap_again(map);
}

void pagemap_fini(struct pagemap *map)
{
    pageset_fini(&map->missing);
    pageset_fini(&map->unclaimed);
    pageset_fini(&map->unrequested);
    pageset_fini(&map->received);
    pthread_mutex_destroy(&map->lock);
    for (unsigned i = 0; i < PAGEMAP_LOCKS; i++)
        pthread_mutex_destroy(&map->granules[i]);
}

uint64_t pagemap_bytes(const struct pagemap *map)
{
    return pageset_bytes(&map->missing) + pageset_bytes(&map->unclaimed) +
           pageset_bytes(&map->unrequested) + pageset_bytes(&map->received);
}

void pagemap_expect(struct pagemap *map, uint64_t first, uint64_t pages)
{
    pageset_add(&map->missing, first, pages);
    pageset_add(&map->unclaimed, first, pages);
    pageset_add(&map->unrequested, first, pages);
}

void pagemap_again(struct pagemap *map)
{
    pageset_fill(&map->unclaimed, &map->missing, &map->received);
    pageset_fill(&map->unrequested, &map->missing, NULL);
    map->again_ns = now_ns();
}

const struct pageset *pagemap_wanted(const struct pagemap *map)
{
    return &map->unclaimed;
}

uint64_t pagemap_left(const struct pagemap *map)
{
    return pageset_count(&map->missing);
}

bool pagemap_missing(const struct pagemap *map, uint64_t page)
{
    return pageset_has(&map->missing, page);
}

void pagemap_want(struct pagemap *map, uint64_t first, unsigned pages,
                  uint64_t *mask, bool claim)
{
    uint64_t missing[PAGESET_MASK_WORDS];

    if (claim) {
        pageset_take(&map->unclaimed, first, pages, mask);
        return;
    }
    pageset_get(&map->missing, first, pages, missing);
    for (unsigned i = 0; i < PAGESET_MASK_WORDS; i++)
        mask[i] &= missing[i];
}

static pthread_mutex_t *pagemap_granule(struct pagemap *map, uint64_t page)
{
    return &map->granules[page / (PAGESET_MASK_WORDS * 64) % PAGEMAP_LOCKS];
}

void pagemap_enter(struct pagemap *map, uint64_t page)
{
    pthread_mutex_lock(pagemap_granule(map, page));
}

void pagemap_leave(struct pagemap *map, uint64_t page)
{
    pthread_mutex_unlock(pagemap_granule(map, page));
}

void pagemap_received(struct pagemap *map, uint64_t first, unsigned pages,
                      const uint64_t *mask)
{
    unsigned end;

    for (unsigned run = mask_run(mask, pages, 0, &end); run < pages;
         run = mask_run(mask, pages, end, &end))
        pageset_add(&map->received, first + run, end - run);
}

uint64_t pagemap_received_next(const struct pagemap *map, uint64_t from)
{
    uint64_t page = pageset_next(&map->received, from);

    while (page < map->received.pages && !pageset_has(&map->missing, page))
        page = pageset_next(&map->received, page + 1);
    return page;
}

/* Count and forget the faults that wait for pages of @mask. Return the
 * shortest wait. */
static uint64_t pagemap_measure(struct pagemap *map, uint64_t first,
                                const uint64_t *mask)
{
    uint64_t now = now_ns(), shortest = UINT64_MAX;

    pthread_mutex_lock(&map->lock);
    for (unsigned i = 0; i < map->fault_count;) {
        uint64_t at = map->faults[i].page - first;

        if (at < PAGESET_MASK_WORDS * 64 && mask_has(mask, (unsigned)at)) {
            uint64_t waited = now - map->faults[i].since_ns;

            histogram_add(&map->stats->latency, waited);
            shortest = MIN(shortest, waited);
            map->faults[i] = map->faults[--map->fault_count];
        } else {
            i++;
        }
    }
    pthread_mutex_unlock(&map->lock);
    return shortest;
}

uint64_t pagemap_waiting_ns(struct pagemap *map)
{
    uint64_t since = UINT64_MAX;

    pthread_mutex_lock(&map->lock);
    for (unsigned i = 0; i < map->fault_count; i++) {
        if (map->faults[i].since_ns >= map->again_ns)
            since = MIN(since, map->faults[i].since_ns);
    }
    pthread_mutex_unlock(&map->lock);
    return since;
}

unsigned pagemap_placed(struct pagemap *map, uint64_t first, unsigned pages,
                        uint64_t *mask, uint64_t *waited_ns)
{
    uint64_t unrequested[PAGESET_MASK_WORDS];
    uint64_t taken[PAGESET_MASK_WORDS], waited = 0;
    unsigned count;

    memcpy(taken, mask, sizeof(taken));
    count = pageset_take(&map->missing, first, pages, taken);
    /* After the bit is clear: a fault that is entered later sees it placed. */
    pageset_get(&map->unrequested, first, pages, unrequested);
    for (unsigned word = 0; word < PAGESET_MASK_WORDS; word++)
        waited |= taken[word] & ~unrequested[word];
    *waited_ns = waited ? pagemap_measure(map, first, taken) : UINT64_MAX;
    return count;
}

/* Mark what is to be asked for. All pages, if all are missing and unasked for;
 * a page that is neither stands for itself. */
static unsigned pagemap_ask(struct pagemap *map, uint64_t page, uint64_t first,
                            unsigned pages)
{
    uint64_t mask[PAGESET_MASK_WORDS] = {1};

    if (pages > 1 && pageset_get(&map->missing, first, pages, mask) == pages &&
        pageset_get(&map->unrequested, first, pages, mask) == pages &&
        pageset_take(&map->unrequested, first, pages, mask) == pages)
        return pages;
    memset(mask, 0, sizeof(mask));
    mask_add(mask, 0);
    return pageset_take(&map->unrequested, page, 1, mask);
}

/* Does a fault wait for @page itself, which has asked for it? */
static bool pagemap_waited_for(const struct pagemap *map, uint64_t page)
{
    for (unsigned i = 0; i < map->fault_count; i++) {
        if (map->faults[i].page == page &&
            map->faults[i].since_ns >= map->again_ns)
            return true;
    }
    return false;
}

unsigned pagemap_request(struct pagemap *map, uint64_t page, uint64_t first,
                         unsigned pages, bool again, uint64_t since_ns)
{
    uint64_t mask[PAGESET_MASK_WORDS] = {1};
    unsigned ask;

    pthread_mutex_lock(&map->lock);
    ask = pagemap_ask(map, page, first, pages);
    if (!ask && again)
        ask = !pagemap_waited_for(map, page);
    if (map->fault_count < PAGEMAP_TIMED_FAULTS) {
        map->faults[map->fault_count].page = page;
        map->faults[map->fault_count++].since_ns = since_ns;
    }
    pthread_mutex_unlock(&map->lock);
    if (pagemap_missing(map, page))
        return ask;
    /* Placed meanwhile, by a thread that may not have seen the request. */
    pagemap_measure(map, page, mask);
    return ask > 1 ? ask : 0;
}
