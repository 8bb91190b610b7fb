/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "work.h"

#define WORDS     (WORK_PAGE / sizeof(uint64_t))
#define GROUP     512 /* pages in 2 MiB */
#define BATCH     64
#define WORD_STEP 0x9e3779b97f4a7c15u

#define load(p)     __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* ---- text ---- */

struct text {
    char bytes[256];
    unsigned length;
};

static void text_add(struct text *text, const char *s)
{
    while (*s && text->length < sizeof(text->bytes))
        text->bytes[text->length++] = *s++;
}

static void text_add_number(struct text *text, const char *key, uint64_t value)
{
    char digits[21];
    unsigned at = sizeof(digits) - 1;

    digits[at] = 0;
    do {
        digits[--at] = '0' + value % 10;
        value /= 10;
    } while (value);
    text_add(text, " ");
    text_add(text, key);
    text_add(text, "=");
    text_add(text, digits + at);
}

static void text_print(struct text *text, struct work *work)
{
    text_add(text, "\n");
    work->put(text->bytes, text->length);
}

/* ---- options ---- */

static const char *option_find(const char *line, const char *name)
{
    static const char prefix[] = "remapd.";

    for (;; line++) {
        const char *at = line, *want = prefix;

        while (*want && *at == *want)
            at++, want++;
        if (!*want) {
            for (want = name; *want && *at == *want; want++)
                at++;
            if (!*want && *at == '=')
                return at + 1;
        }
        while (*line && *line != ' ')
            line++;
        if (!*line)
            return 0;
    }
}

static int option_is(const char *value, const char *word)
{
    while (*word && *value == *word)
        value++, word++;
    return !*word && (!*value || *value == ' ' || *value == '\n');
}

static int option_number(const char *value, uint64_t *number)
{
    *number = 0;
    for (; *value >= '0' && *value <= '9'; value++)
        *number = *number * 10 + (*value - '0');
    return !*value || *value == ' ' || *value == '\n';
}

const char *work_options_read(struct work_options *options,
                              const char *command_line)
{
    static const char *const patterns[] = {"uniform", "hot", "scan"};
    const struct {
        const char *name;
        uint64_t *value, standard, min, max;
    } numbers[] = {
        {"seed", &options->seed, 1, 0, UINT64_MAX},
        {"share", &options->share, 75, 1, 95},
        {"zero", &options->zero, 15, 0, 90},
        {"writes", &options->writes, 25, 0, 100},
        {"rate", &options->rate, 0, 0, 1000000},
    };
    const char *value;

    for (unsigned i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        uint64_t *number = numbers[i].value;

        *number = numbers[i].standard;
        value = option_find(command_line, numbers[i].name);
        if (value && (!option_number(value, number) ||
                      *number < numbers[i].min || *number > numbers[i].max))
            return numbers[i].name;
    }
    options->pattern = WORK_UNIFORM;
    value = option_find(command_line, "pattern");
    if (!value)
        return 0;
    for (unsigned i = 0; i < sizeof(patterns) / sizeof(*patterns); i++)
        if (option_is(value, patterns[i])) {
            options->pattern = i;
            return 0;
        }
    return "pattern";
}

/* ---- pages ---- */

/* Two thirds of the zero pages lie in whole zero groups of 2 MiB, the others
 * are strewn among written ones. */
static int page_stays_zero(const struct work *work, uint64_t page)
{
    uint64_t zero = work->options.zero;
    uint64_t group = mix(work->options.seed + page / GROUP) % 1000;

    if (group < zero * 20 / 3)
        return 1;
    return mix(~work->options.seed + page) % 1000 < zero * 10 / 3;
}

static uint64_t page_base(const struct work *work, uint64_t page,
                          uint32_t generation)
{
    return mix(work->options.seed + mix(page << 32 | generation));
}

static void page_write(const struct work *work, uint64_t page)
{
    volatile uint64_t *word = work->memory + page * WORDS;
    uint64_t value = page_base(work, page, ++work->generation[page]);

    for (unsigned i = 0; i < WORDS; i++, value += WORD_STEP)
        word[i] = value;
}

static int page_right(const struct work *work, uint64_t page)
{
    const uint64_t *word = work->memory + page * WORDS;
    uint32_t generation = work->generation[page];
    uint64_t value = generation ? page_base(work, page, generation) : 0;
    uint64_t step = generation ? WORD_STEP : 0;
    uint64_t wrong = 0;

    for (unsigned i = 0; i < WORDS; i++, value += step)
        wrong |= word[i] ^ value;
    return !wrong;
}

static void page_report_wrong(struct work_thread *thread, uint64_t page)
{
    struct work *work = thread->work;
    const uint64_t *word = work->memory + page * WORDS;
    uint32_t generation = work->generation[page];
    struct text text = {.length = 0};

    /* A few are enough to see what went wrong; all are counted. */
    if (thread->errors++ > 4)
        return;
    text_add(&text, "REMAPD-GUEST BAD");
    text_add_number(&text, "page", page);
    text_add_number(&text, "generation", generation);
    text_add_number(&text, "found", word[0]);
    text_add_number(&text, "expected",
                    generation ? page_base(work, page, generation) : 0);
    text_print(&text, work);
}

static int page_check(struct work_thread *thread, uint64_t page)
{
    if (page_right(thread->work, page))
        return 1;
    page_report_wrong(thread, page);
    return 0;
}

/* ---- threads ---- */

void work_init(struct work *work, void *memory, uint64_t bytes,
               unsigned threads)
{
    uint64_t pages = bytes / (WORK_PAGE + sizeof(*work->generation));

    work->memory = memory;
    work->pages = pages - pages % threads;
    work->generation = (uint32_t *)(work->memory + work->pages * WORDS);
    work->threads = threads;
    for (unsigned i = 0; i < threads; i++) {
        work->thread[i].work = work;
        work->thread[i].index = i;
        work->thread[i].random = mix(work->options.seed + i) | 1;
    }
}

void work_fill(struct work_thread *thread)
{
    struct work *work = thread->work;

    for (uint64_t p = thread->index; p < work->pages; p += work->threads)
        if (!page_stays_zero(work, p)) {
            page_write(work, p);
            thread->writes++;
        }
}

static uint64_t random_next(struct work_thread *thread)
{
    uint64_t x = thread->random;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    thread->random = x;
    return x * 0x2545f4914f6cdd1du;
}

/* A thread has every `threads`th page, so that no page has two writers and all
 * threads meet in the same huge pages. */
static uint64_t thread_choose_page(struct work_thread *thread)
{
    const struct work *work = thread->work;
    uint64_t pages = work->pages / work->threads;
    uint64_t choice = random_next(thread) >> 32;

    switch (work->options.pattern) {
    case WORK_HOT:
        if (choice % 8)
            pages = pages / 10 + 1;
        break;
    case WORK_SCAN:
        if (++thread->position >= pages)
            thread->position = 0;
        return thread->position * work->threads + thread->index;
    case WORK_UNIFORM:
        break;
    }
    return (choice * pages >> 32) * work->threads + thread->index;
}

static void gap_raise(uint64_t *longest, uint64_t gap)
{
    if (gap > load(longest))
        store(longest, gap);
}

/* Which class a wait belongs to: its highest bit and the two behind it. */
static unsigned wait_class(uint64_t tsc)
{
    unsigned bit = 63 - (unsigned)__builtin_clzll(tsc | 4);

    return bit * 4 + (tsc >> (bit - 2) & 3);
}

/* The middle of a class. */
static uint64_t wait_tsc(unsigned class)
{
    return (uint64_t)(9 + class % 4 * 2) << class / 4 >> 3;
}

/* No longer than this were @percent of the waits, microseconds. */
static uint64_t wait_percentile(const struct work *work, uint64_t count,
                                unsigned percent)
{
    uint64_t seen = 0;
    unsigned class = 0;

    for (; class < WORK_WAITS; class++) {
        for (unsigned i = 0; i < work->threads; i++)
            seen += load(&work->thread[i].waits[class]);
        if (seen * 100 >= count * percent)
            break;
    }
    return count ? wait_tsc(class) * 1000 / work->tsc_per_ms : 0;
}

static void thread_operate(struct work_thread *thread)
{
    struct work *work = thread->work;
    uint64_t page = thread_choose_page(thread);
    uint64_t now, gap;

    /* What is overwritten is read first: no wrong page gets away. */
    page_check(thread, page);
    if (random_next(thread) >> 32 < (work->options.writes << 32) / 100 &&
        !page_stays_zero(work, page)) {
        page_write(work, page);
        store(&thread->writes, thread->writes + 1);
    }
    store(&thread->operations, thread->operations + 1);
    now = work_tsc();
    gap = now > thread->last_tsc ? now - thread->last_tsc : 0;
    gap_raise(&thread->gap_line_tsc, gap);
    gap_raise(&thread->gap_mark_tsc, gap);
    if (gap * 1000 >= WORK_WAIT_US * work->tsc_per_ms) {
        uint64_t *waits = &thread->waits[wait_class(gap)];

        store(waits, *waits + 1);
        if (gap * 1000 >= WORK_LONG_WAIT_US * work->tsc_per_ms)
            store(&thread->long_waits, thread->long_waits + 1);
    }
    store(&thread->last_tsc, now);
}

static void thread_verify(struct work_thread *thread)
{
    struct work *work = thread->work;
    uint64_t writes = 0;

    thread->verified_pages = thread->verified_zero = 0;
    thread->verified_wrong = 0;
    for (uint64_t p = thread->index; p < work->pages; p += work->threads) {
        thread->verified_pages++;
        thread->verified_zero += !work->generation[p];
        thread->verified_wrong += !page_check(thread, p);
        writes += work->generation[p];
        work_rested(thread);
    }
    /* A page that went back in time together with its generation. */
    if (writes != thread->writes)
        thread->verified_wrong++;
}

unsigned work_batch(struct work_thread *thread)
{
    unsigned wanted = load(&thread->work->verify);

    if (thread->verified != wanted) {
        thread_verify(thread);
        store(&thread->verified, wanted);
        work_rested(thread);
    }
    for (unsigned i = 0; i < BATCH; i++)
        thread_operate(thread);
    return BATCH;
}

void work_rested(struct work_thread *thread)
{
    store(&thread->last_tsc, work_tsc());
}

/* ---- reporter ---- */

void work_ready(struct work *work)
{
    struct text text = {.length = 0};

    work->start_tsc = work_tsc();
    for (unsigned i = 0; i < work->threads; i++)
        work_rested(&work->thread[i]);
    text_add(&text, "REMAPD-GUEST READY");
    text_add_number(&text, "id", work->start_tsc);
    text_add_number(&text, "pages", work->pages);
    text_add_number(&text, "threads", work->threads);
    text_add_number(&text, "at", (uintptr_t)&work->start_tsc);
    text_add_number(&text, "counter",
                    (uintptr_t)&work->thread[0].operations);
    text_add_number(&text, "stride", sizeof(work->thread[0]));
    text_print(&text, work);
}

void work_input(struct work *work, char c)
{
    if (c != '\n' && c != '\r') {
        if (work->input_length < sizeof(work->input) - 1)
            work->input[work->input_length++] = c;
        return;
    }
    work->input[work->input_length] = 0;
    work->input_length = 0;
    if (option_is(work->input, "mark")) {
        for (unsigned i = 0; i < work->threads; i++) {
            store(&work->thread[i].gap_mark_tsc, 0);
            store(&work->thread[i].long_waits, 0);
            for (unsigned class = 0; class < WORK_WAITS; class++)
                store(&work->thread[i].waits[class], 0);
        }
        work->put("REMAPD-GUEST MARKED\n", 20);
    } else if (option_is(work->input, "verify")) {
        store(&work->verify, work->verify + 1);
    }
}

static void print_verified(struct work *work)
{
    uint64_t pages = 0, zero = 0, wrong = 0;
    struct text text = {.length = 0};

    for (unsigned i = 0; i < work->threads; i++) {
        pages += work->thread[i].verified_pages;
        zero += work->thread[i].verified_zero;
        wrong += work->thread[i].verified_wrong;
    }
    text_add(&text, wrong ? "REMAPD-GUEST WRONG" : "REMAPD-GUEST VERIFIED");
    text_add_number(&text, "pages", pages);
    text_add_number(&text, "zero", zero);
    text_add_number(&text, "wrong", wrong);
    text_print(&text, work);
}

static int all_verified(struct work *work)
{
    for (unsigned i = 0; i < work->threads; i++)
        if (load(&work->thread[i].verified) != work->verify)
            return 0;
    return 1;
}

void work_poll(struct work *work)
{
    uint64_t operations = 0, writes = 0, errors = 0, line = 0, mark = 0;
    uint64_t waits = 0, long_waits = 0;
    struct text text = {.length = 0};
    uint64_t now = work_tsc();

    for (unsigned i = 0; i < work->threads; i++) {
        struct work_thread *thread = &work->thread[i];
        uint64_t last = load(&thread->last_tsc);
        uint64_t open = now > last ? now - last : 0;
        uint64_t gap = __atomic_exchange_n(&thread->gap_line_tsc, 0,
                                           __ATOMIC_ACQ_REL);
        uint64_t marked = load(&thread->gap_mark_tsc);

        operations += load(&thread->operations);
        writes += load(&thread->writes);
        errors += load(&thread->errors);
        /* An operation that hangs right now is a gap as well. */
        gap = gap > open ? gap : open;
        marked = marked > open ? marked : open;
        line = line > gap ? line : gap;
        mark = mark > marked ? mark : marked;
        long_waits += load(&thread->long_waits);
        for (unsigned class = 0; class < WORK_WAITS; class++)
            waits += load(&thread->waits[class]);
    }
    text_add(&text, "REMAPD-GUEST LINE");
    text_add_number(&text, "id", work->start_tsc);
    text_add_number(&text, "t_us",
                    (now - work->start_tsc) * 1000 / work->tsc_per_ms);
    text_add_number(&text, "ops", operations);
    text_add_number(&text, "writes", writes);
    text_add_number(&text, "errors", errors);
    text_add_number(&text, "gap_us", line * 1000 / work->tsc_per_ms);
    text_add_number(&text, "mark_us", mark * 1000 / work->tsc_per_ms);
    text_add_number(&text, "waits", waits);
    text_add_number(&text, "long_waits", long_waits);
    text_add_number(&text, "wait_p50_us", wait_percentile(work, waits, 50));
    text_add_number(&text, "wait_p99_us", wait_percentile(work, waits, 99));
    text_print(&text, work);
    if (work->answered != work->verify && all_verified(work)) {
        work->answered = work->verify;
        print_verified(work);
    }
}
