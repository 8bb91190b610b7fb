/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's program on bare metal: one vCPU, below 3 GiB, running as soon as
 * the firmware is through. It polls the serial port and sleeps, if its rate
 * lets it, until the timer's next interrupt.
 */
#include "work.h"

#define MEMORY_START  (4u << 20) /* above this program and what it was given */
#define MEMORY_MARGIN (1u << 20) /* the firmware's tables, below the end */

#define SERIAL          0x3f8
#define SERIAL_STATUS   (SERIAL + 5)
#define SERIAL_RECEIVED 0x01
#define SERIAL_EMPTY    0x20

/* Where SeaBIOS puts it on both of QEMU's PC machines; 24 bits. */
#define PM_TIMER    0x608
#define PM_TIMER_HZ 3579545

#define TIMER_HZ     100
#define TIMER_VECTOR 32

struct multiboot_info {
    uint32_t flags;
    uint32_t mem_lower_kib, mem_upper_kib;
    uint32_t boot_device;
    uint32_t command_line;
};

struct interrupt_gate {
    uint16_t offset_low, selector, attributes, offset_middle;
    uint32_t offset_high, reserved;
};

void timer_interrupt(void);
void tiny_main(const struct multiboot_info *info);

static struct work work;
static struct interrupt_gate gates[TIMER_VECTOR + 1];

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static uint32_t in32(uint16_t port)
{
    uint32_t value;

    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void *memset(void *to, int value, unsigned long length)
{
    void *at = to;

    __asm__ volatile("rep stosb" : "+D"(at), "+c"(length) : "a"(value)
                     : "memory");
    return to;
}

static void put(const char *text, unsigned length)
{
    while (length--) {
        while (!(in8(SERIAL_STATUS) & SERIAL_EMPTY))
            ;
        out8(SERIAL, *text++);
    }
}

static void fail(const char *what)
{
    unsigned length = 0;

    while (what[length])
        length++;
    put("REMAPD-GUEST FAILED ", 20);
    put(what, length);
    put("\n", 1);
    for (;;)
        __asm__ volatile("hlt");
}

struct clocks {
    uint64_t tsc;
    uint32_t timer;
};

/* Both clocks at once: the closest of some tries, for the host may take the
 * CPU away between the two. */
static struct clocks read_clocks(void)
{
    struct clocks closest = {0};
    uint64_t least = UINT64_MAX;

    for (int i = 0; i < 16; i++) {
        uint64_t before = work_tsc();
        uint32_t timer = in32(PM_TIMER);
        uint64_t took = work_tsc() - before;

        if (took < least) {
            least = took;
            closest = (struct clocks){before + took / 2, timer};
        }
    }
    return closest;
}

static uint64_t measure_tsc_per_ms(void)
{
    struct clocks start = read_clocks(), now;
    uint32_t ticks;

    do {
        now = read_clocks();
        ticks = (now.timer - start.timer) & 0xffffff;
    } while (ticks < PM_TIMER_HZ / 50);
    return (now.tsc - start.tsc) * PM_TIMER_HZ / 1000 / ticks;
}

static void start_timer(void)
{
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = {sizeof(gates) - 1, (uint64_t)gates};
    uint64_t handler = (uint64_t)timer_interrupt;
    unsigned divisor = 1193182 / TIMER_HZ;

    gates[TIMER_VECTOR] = (struct interrupt_gate){
        .offset_low = handler,
        .selector = 8,
        .attributes = 0x8e00,
        .offset_middle = handler >> 16,
        .offset_high = handler >> 32,
    };
    __asm__ volatile("lidt %0" : : "m"(pointer));
    out8(0x20, 0x11); /* both interrupt controllers: begin */
    out8(0xa0, 0x11);
    out8(0x21, TIMER_VECTOR);
    out8(0xa1, TIMER_VECTOR + 8);
    out8(0x21, 4); /* the second hangs on line 2 of the first */
    out8(0xa1, 2);
    out8(0x21, 1); /* 8086 mode */
    out8(0xa1, 1);
    out8(0x21, 0xfe); /* the timer alone */
    out8(0xa1, 0xff);
    out8(0x43, 0x34); /* channel 0, rate generator */
    out8(0x40, divisor & 0xff);
    out8(0x40, divisor >> 8);
    __asm__ volatile("sti");
}

void tiny_main(const struct multiboot_info *info)
{
    uint64_t end = ((uint64_t)info->mem_upper_kib << 10) + (1u << 20);
    uint64_t line_tsc, line_due, bytes;
    const char *wrong;

    wrong = work_options_read(&work.options,
                              (const char *)(uint64_t)info->command_line);
    if (wrong)
        fail(wrong);
    if (end < MEMORY_START + 2 * MEMORY_MARGIN)
        fail("too little memory");
    bytes = (end - MEMORY_START - MEMORY_MARGIN) / 100 * work.options.share;
    bytes &= ~(uint64_t)(WORK_PAGE - 1);
    work.put = put;
    work.tsc_per_ms = measure_tsc_per_ms();
    memset((void *)(uint64_t)MEMORY_START, 0, bytes);
    work_init(&work, (void *)(uint64_t)MEMORY_START, bytes, 1);
    start_timer();
    work_fill(&work.thread[0]);
    work_ready(&work);
    line_tsc = work.tsc_per_ms * WORK_LINE_MS;
    line_due = work_tsc();
    for (uint64_t rested_tsc = line_due, count = 0;;) {
        uint64_t rate = work.options.rate;

        count += work_batch(&work.thread[0]);
        while (in8(SERIAL_STATUS) & SERIAL_RECEIVED)
            work_input(&work, in8(SERIAL));
        if (work_tsc() >= line_due) {
            work_poll(&work);
            line_due += line_tsc;
            if (line_due < work_tsc())
                line_due = work_tsc();
        }
        if (rate && count * TIMER_HZ > rate) {
            uint64_t wake = rested_tsc + count * work.tsc_per_ms * 1000 / rate;

            while (work_tsc() < wake && work_tsc() < line_due)
                __asm__ volatile("hlt");
            rested_tsc = wake;
            count = 0;
            work_rested(&work.thread[0]);
        }
    }
}
