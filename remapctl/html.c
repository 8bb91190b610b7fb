/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "show.h"

#define MIB (1024.0 * 1024.0)

/* The drawing, and within it the field that its axes enclose. */
#define WIDTH  720
#define HEIGHT 190
#define LEFT   70.0
#define RIGHT  710.0
#define TOP    10.0
#define BOTTOM 160.0

/* A sample, as daemon/series.h has it. */
enum member { END_US, LEFT_PAGES, FAULTS, WAITED_US, LONGEST_US };

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<style>\n"
    ":root{color-scheme:light dark;--ink:#222;--paper:#fff;--line:#bbb;"
    "--one:#1668b5;--two:#c2410c}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#ddd;--paper:#181818;"
    "--line:#555;--one:#6cb2f2;--two:#fb923c}}\n"
    "body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);"
    "background:var(--paper);max-width:760px;margin:2em auto;padding:0 1em}\n"
    "h1{font-size:1.4em}h2{font-size:1.1em;margin:1.6em 0 .2em}\n"
    "p{margin:.2em 0 .6em}th{text-align:left;font-weight:normal;"
    "padding-right:2em;vertical-align:top}td{font-weight:600}\n"
    "svg{width:100%;height:auto}svg text{font-size:12px;fill:var(--ink)}\n"
    ".axis{stroke:var(--line);fill:none}.one{stroke:var(--one);fill:none;"
    "stroke-width:1.5}.two{stroke:var(--two);fill:none;stroke-width:1.5}\n"
    ".area{fill:var(--one);opacity:.25}.bar{fill:var(--two)}"
    ".whole{fill:var(--one)}\n</style>\n";

static void put(const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", stdout);
            break;
        case '>':
            fputs("&gt;", stdout);
            break;
        case '&':
            fputs("&amp;", stdout);
            break;
        case '"':
            fputs("&quot;", stdout);
            break;
        default:
            putchar((unsigned char)*text < ' ' ? '?' : *text);
        }
    }
}

static double value(const struct json_object *samples, size_t index,
                    enum member member)
{
    struct json_object *row = json_object_array_get_idx(samples, index);

    return json_object_is_type(row, json_type_array)
               ? json_object_get_double(json_object_array_get_idx(row, member))
               : 0;
}

/* One curve: what it shows of a sample that began at @from_us. */
struct curve {
    const char *class;
    double (*of)(const struct json_object *samples, size_t index,
                 double from_us);
};

struct chart {
    const char *title, *text, *unit;
    bool logarithmic, area;
    struct curve curves[2];
};

static double left_mib(const struct json_object *samples, size_t index,
                       double from_us)
{
    (void)from_us;
    return value(samples, index, LEFT_PAGES) * SHOW_PAGE_BYTES / MIB;
}

static double mean_ms(const struct json_object *samples, size_t index,
                      double from_us)
{
    double faults = value(samples, index, FAULTS);

    (void)from_us;
    return faults > 0 ? value(samples, index, WAITED_US) / faults / 1000 : 0;
}

static double longest_ms(const struct json_object *samples, size_t index,
                         double from_us)
{
    (void)from_us;
    return value(samples, index, LONGEST_US) / 1000;
}

static double stalled(const struct json_object *samples, size_t index,
                      double from_us)
{
    double us = value(samples, index, END_US) - from_us;

    return us > 0 ? value(samples, index, WAITED_US) / us : 0;
}

static const struct chart charts[] = {
    {"Progress",
     "Guest memory that has not arrived, MiB.",
     "MiB",
     false,
     true,
     {{"one", left_mib}}},
    {"Fault latency",
     "From a fault to its page being in place, ms: the mean and, above it, the "
     "longest of each moment. The scale is logarithmic.",
     "ms",
     true,
     false,
     {{"one", mean_ms}, {"two", longest_ms}}},
    {"Guest stall",
     "How many of the guest's threads waited for a page, on average: faults "
     "answered in each moment, times how long they took.",
     "threads",
     false,
     true,
     {{"one", stalled}}},
};

static double chart_y(const struct chart *chart, double v, double max)
{
    /* Three powers of ten below the largest. */
    double share =
        chart->logarithmic ? v > 0 ? 1 + log10(v / max) / 3 : 0 : v / max;

    return BOTTOM - (BOTTOM - TOP) * fmax(share, 0);
}

static void chart_axes(const struct chart *chart, double max, double seconds)
{
    printf("<path class=\"axis\" d=\"M%g %gV%gH%g\"/>\n", LEFT, TOP, BOTTOM,
           RIGHT);
    for (int i = 0; i < 4; i++) {
        double y = BOTTOM - (BOTTOM - TOP) * i / 3;
        double at = chart->logarithmic ? max * pow(10, i - 3) : max * i / 3;

        printf("<path class=\"axis\" d=\"M%g %gh-4\"/>"
               "<text x=\"%g\" y=\"%g\" text-anchor=\"end\">%.*f</text>\n",
               LEFT, y, LEFT - 8, y + 4, at < 10 ? 2 : at < 100, at);
        printf("<text x=\"%g\" y=\"%g\" text-anchor=\"%s\">%.3g s</text>\n",
               LEFT + (RIGHT - LEFT) * i / 3, BOTTOM + 18,
               i == 3 ? "end" : "middle", seconds * i / 3);
    }
}

static void chart_curve(const struct chart *chart, const struct curve *curve,
                        const struct json_object *samples, double max)
{
    size_t count = json_object_array_length(samples);
    double whole_us = value(samples, count - 1, END_US), from_us = 0;

    for (int area = chart->area; area >= 0; area--) {
        printf("<path class=\"%s\" d=\"", area ? "area" : curve->class);
        if (area)
            printf("M%g %g", LEFT, BOTTOM);
        for (size_t i = 0; i < count; i++) {
            double end_us = value(samples, i, END_US);
            double x =
                LEFT + (RIGHT - LEFT) * (whole_us > 0 ? end_us / whole_us : 1);
            double y = chart_y(chart, curve->of(samples, i, from_us), max);

            if (!i)
                printf("%c%g %.1f", area ? 'L' : 'M', LEFT, y);
            printf("L%.1f %.1f", x, y);
            from_us = end_us;
        }
        if (area)
            printf("L%g %gZ", RIGHT, BOTTOM);
        puts("\"/>");
        from_us = 0;
    }
}

static void chart_draw(const struct chart *chart,
                       const struct json_object *samples)
{
    size_t count = json_object_array_length(samples);
    double max = 0, from_us = 0;

    for (size_t i = 0; i < count; i++) {
        for (int j = 0; j < 2 && chart->curves[j].of; j++)
            max = fmax(max, chart->curves[j].of(samples, i, from_us));
        from_us = value(samples, i, END_US);
    }
    if (!(max > 0))
        max = 1;
    printf("<h2>%s</h2><p>%s</p>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" "
           "aria-label=\"%s, %s over seconds\">\n",
           chart->title, chart->text, WIDTH, HEIGHT, chart->title, chart->unit);
    chart_axes(chart, max, value(samples, count - 1, END_US) / 1e6);
    for (int j = 0; j < 2 && chart->curves[j].of; j++)
        chart_curve(chart, &chart->curves[j], samples, max);
    puts("</svg>");
}

static void huge_pages(const struct json_object *session)
{
    double whole = (double)show_number(session, "huge_pages.whole");
    double pieces = (double)show_number(session, "huge_pages.pieces");
    double width = RIGHT - 10;

    puts("<h2>Huge pages</h2>");
    if (!(whole + pieces > 0)) {
        puts("<p>None were moved whole: the engine places small pages, or this "
             "host was the source.</p>");
        return;
    }
    printf("<p>%.0f of 2 MiB came whole, %.0f in pieces, which are made huge "
           "again afterwards.</p>\n<svg viewBox=\"0 0 %d 30\" role=\"img\" "
           "aria-label=\"huge pages\"><rect class=\"whole\" x=\"10\" y=\"4\" "
           "width=\"%.1f\" height=\"20\"/><rect class=\"bar\" x=\"%.1f\" "
           "y=\"4\" width=\"%.1f\" height=\"20\"/></svg>\n",
           whole, pieces, WIDTH, width * whole / (whole + pieces),
           10 + width * whole / (whole + pieces),
           width * pieces / (whole + pieces));
}

static void row_text(const char *name, const char *text)
{
    printf("<tr><th>%s</th><td>", name);
    put(text);
    puts("</td></tr>");
}

static void row(const char *name, double number, int decimals, const char *unit)
{
    char text[64];

    snprintf(text, sizeof(text), "%.*f%s", decimals, number, unit);
    row_text(name, text);
}

static void figures(const struct json_object *session)
{
    double total = (double)show_number(session, "pages.total");
    double left = (double)show_number(session, "pages.left");

    puts("<table>");
    row_text("guest", show_text(session, "name"));
    row_text("session", show_text(session, "session"));
    row_text("this host was the", show_text(session, "role"));
    row_text("ended", show_text(session, "state"));
    if (*show_text(session, "error"))
        row_text("because", show_text(session, "error"));
    row_text("engine", show_text(session, "engine"));
    row("from the first page to the last", show_real(session, "seconds"), 3,
        " s");
    row("memory to come", total * SHOW_PAGE_BYTES / MIB, 1, " MiB");
    row("that did not arrive", left * SHOW_PAGE_BYTES / MIB, 1, " MiB");
    row("of zeros, without payload",
        (double)show_number(session, "pages.zero") * SHOW_PAGE_BYTES / MIB, 1,
        " MiB");
    row("on the wire", (double)show_number(session, "bytes_on_wire") / MIB, 1,
        " MiB");
    row("faults", (double)show_number(session, "faults"), 0, "");
    row("answered in, median",
        (double)show_number(session, "fault_latency_us.p50") / 1000, 3, " ms");
    row("99 of 100 within",
        (double)show_number(session, "fault_latency_us.p99") / 1000, 3, " ms");
    row("longest", (double)show_number(session, "fault_latency_us.max") / 1000,
        3, " ms");
    row("all waits together",
        (double)show_number(session, "fault_latency_us.sum") / 1e6, 3, " s");
    puts("</table>");
}

void html_report(const struct json_object *session)
{
    struct json_object *samples = NULL;

    fputs(head, stdout);
    fputs("<title>Migration of ", stdout);
    put(show_text(session, "name"));
    fputs("</title></head><body>\n<h1>Migration of ", stdout);
    put(show_text(session, "name"));
    puts("</h1>");
    figures(session);
    json_object_object_get_ex(session, "samples", &samples);
    if (json_object_is_type(samples, json_type_array) &&
        json_object_array_length(samples)) {
        for (size_t i = 0; i < sizeof(charts) / sizeof(*charts); i++)
            chart_draw(&charts[i], samples);
    } else {
        puts("<p>It has no samples over time: it did not come to "
             "post-copy.</p>");
    }
    huge_pages(session);
    puts("</body></html>");
}
