/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "show.h"

#define MIB        (1024.0 * 1024.0)
#define KEY(class) "<i class=\"" class "\"></i>"

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
    "p{margin:.2em 0 .6em}table{border-spacing:0 .15em}th{text-align:left;"
    "font-weight:normal;padding:0 2em 0 0;vertical-align:top}td{padding:0;"
    "font-weight:600;overflow-wrap:anywhere}\n"
    "i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}"
    "i.one{background:var(--one)}i.two{background:var(--two)}\n"
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

/* One curve: what it shows of a sample. */
struct curve {
    const char *class;
    double (*of)(const struct json_object *samples, size_t index);
};

struct chart {
    const char *title, *text, *unit;
    bool logarithmic, area;
    struct curve curves[2];
};

static double begin_us(const struct json_object *samples, size_t index)
{
    return index ? value(samples, index - 1, END_US) : 0;
}

static double left_mib(const struct json_object *samples, size_t index)
{
    return value(samples, index, LEFT_PAGES) * SHOW_PAGE_BYTES / MIB;
}

static double mean_ms(const struct json_object *samples, size_t index)
{
    double faults = value(samples, index, FAULTS);

    return faults > 0 ? value(samples, index, WAITED_US) / faults / 1000 : 0;
}

static double longest_ms(const struct json_object *samples, size_t index)
{
    return value(samples, index, LONGEST_US) / 1000;
}

/* A sample counts a wait when it ends. It began before, at most the longest
   wait of the sample ago: that is where the waits are spread over. */
static double stalled(const struct json_object *samples, size_t index)
{
    double begin = begin_us(samples, index);
    double end = value(samples, index, END_US), waited_us = 0;

    if (!(end > begin))
        return 0;
    for (size_t i = index; i < json_object_array_length(samples); i++) {
        double to = value(samples, i, END_US);
        double from = fmin(begin_us(samples, i),
                           fmax(to - value(samples, i, LONGEST_US), 0));
        double common = fmin(end, to) - fmax(begin, from);

        if (common > 0)
            waited_us += value(samples, i, WAITED_US) * common / (to - from);
    }
    return waited_us / (end - begin);
}

static const struct chart charts[] = {
    {"Progress",
     "Guest memory that has not arrived, MiB.",
     "MiB",
     false,
     true,
     {{"one", left_mib}}},
    {"Fault latency",
     "From a fault to its page being in place, ms: " KEY(
         "one") "the mean and " KEY("two") "the longest of each moment in "
                                           "which "
                                           "faults were answered. The scale is "
                                           "logarithmic.",
     "ms",
     true,
     false,
     {{"one", mean_ms}, {"two", longest_ms}}},
    {"Guest stall",
     "How many of the guest's threads waited for a page, on average.",
     "threads",
     false,
     true,
     {{"one", stalled}}},
};

/* What an axis spans. One that is logarithmic has a tick a power of ten. */
struct scale {
    double from, to, step;
    bool logarithmic;
};

/* The smallest of 1, 2 and 5 times a power of ten that divides @span into no
   more than five. */
static double scale_step(double span)
{
    double power = pow(10, floor(log10(span / 5)));

    for (int i = 0; i < 3; i++) {
        double step = power * (const double[]){1, 2, 5}[i];

        if (span / step <= 5)
            return step;
    }
    return power * 10;
}

static struct scale scale_linear(double max)
{
    double step = scale_step(max);

    return (struct scale){0, ceil(max / step) * step, step, false};
}

static struct scale scale_logarithmic(double min, double max)
{
    double from = floor(log10(min)), to = fmax(ceil(log10(max)), from + 1);

    return (struct scale){from, to, 1, true};
}

/* 0 to 1 */
static double scale_share(const struct scale *scale, double v)
{
    return ((scale->logarithmic ? log10(v) : v) - scale->from) /
           (scale->to - scale->from);
}

static double chart_y(const struct scale *scale, double v)
{
    return BOTTOM - (BOTTOM - TOP) * scale_share(scale, v);
}

static double chart_x(const struct json_object *samples, double us)
{
    double whole =
        value(samples, json_object_array_length(samples) - 1, END_US);

    return LEFT + (RIGHT - LEFT) * (whole > 0 ? us / whole : 1);
}

static void chart_axes(const struct scale *scale,
                       const struct json_object *samples)
{
    double seconds =
        value(samples, json_object_array_length(samples) - 1, END_US) / 1e6;
    double step = seconds > 0 ? scale_step(seconds) : 1;

    printf("<path class=\"axis\" d=\"M%g %gV%gH%g\"/>\n", LEFT, TOP, BOTTOM,
           RIGHT);
    for (int i = 0; scale->from + i * scale->step <= scale->to * 1.001; i++) {
        double at = scale->from + i * scale->step;
        double y = chart_y(scale, scale->logarithmic ? pow(10, at) : at);

        printf("<path class=\"axis\" d=\"M%g %.1fh-4\"/>"
               "<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%.10g</text>\n",
               LEFT, y, LEFT - 8, y + 4, scale->logarithmic ? pow(10, at) : at);
    }
    for (int i = 0; i * step <= seconds * 1.001; i++) {
        double x = chart_x(samples, i * step * 1e6);

        printf("<path class=\"axis\" d=\"M%.1f %gv4\"/><text x=\"%.1f\" "
               "y=\"%g\" text-anchor=\"%s\">%.10g s</text>\n",
               x, BOTTOM, x, BOTTOM + 18, x > RIGHT - 15 ? "end" : "middle",
               i * step);
    }
}

/* What a logarithmic scale cannot show, as there was nothing, is a gap. */
static void chart_line(const struct scale *scale, const struct curve *curve,
                       const struct json_object *samples)
{
    bool gap = true;

    printf("<path class=\"%s\" d=\"", curve->class);
    for (size_t i = 0; i < json_object_array_length(samples); i++) {
        double v = curve->of(samples, i);
        double x = chart_x(samples, begin_us(samples, i));
        double end = chart_x(samples, value(samples, i, END_US));

        if (scale->logarithmic && !(v > 0)) {
            gap = true;
            continue;
        }
        if (gap || scale->logarithmic)
            printf("%c%.1f %.1f", gap ? 'M' : 'L', x, chart_y(scale, v));
        if (scale->logarithmic)
            printf("H%.1f", end);
        else
            printf("L%.1f %.1f", end, chart_y(scale, v));
        gap = false;
    }
    puts("\"/>");
}

static void chart_area(const struct scale *scale, const struct curve *curve,
                       const struct json_object *samples)
{
    printf("<path class=\"area\" d=\"M%g %g", LEFT, BOTTOM);
    for (size_t i = 0; i < json_object_array_length(samples); i++) {
        double y = chart_y(scale, curve->of(samples, i));

        if (!i)
            printf("V%.1f", y);
        printf("L%.1f %.1f", chart_x(samples, value(samples, i, END_US)), y);
    }
    printf("L%g %gZ\"/>\n", RIGHT, BOTTOM);
}

static void chart_draw(const struct chart *chart,
                       const struct json_object *samples)
{
    size_t count = json_object_array_length(samples);
    double max = 0, min = INFINITY;
    struct scale scale;

    for (size_t i = 0; i < count; i++) {
        for (int j = 0; j < 2 && chart->curves[j].of; j++) {
            double v = chart->curves[j].of(samples, i);

            max = fmax(max, v);
            if (v > 0)
                min = fmin(min, v);
        }
    }
    if (!(max > 0))
        min = max = 1;
    scale =
        chart->logarithmic ? scale_logarithmic(min, max) : scale_linear(max);
    printf("<h2>%s</h2><p>%s</p>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" "
           "aria-label=\"%s, %s over seconds\">\n",
           chart->title, chart->text, WIDTH, HEIGHT, chart->title, chart->unit);
    chart_axes(&scale, samples);
    for (int j = 0; j < 2 && chart->curves[j].of; j++) {
        if (chart->area)
            chart_area(&scale, &chart->curves[j], samples);
        chart_line(&scale, &chart->curves[j], samples);
    }
    puts("</svg>");
}

static void huge_pages(const struct json_object *session)
{
    double whole = (double)show_number(session, "huge_pages.whole");
    double pieces = (double)show_number(session, "huge_pages.pieces");
    double width = WIDTH;

    puts("<h2>Huge pages</h2>");
    if (!(whole + pieces > 0)) {
        puts("<p>None were moved whole: the engine places small pages, or this "
             "host was the source.</p>");
        return;
    }
    printf(
        "<p>" KEY("one") "%.0f of 2 MiB came whole, " KEY(
            "two") "%.0f in pieces, which are made huge again "
                   "afterwards.</p>\n<svg viewBox=\"0 0 %d 30\" role=\"img\" "
                   "aria-label=\"huge pages\"><rect class=\"whole\" x=\"0\" "
                   "y=\"4\" "
                   "width=\"%.1f\" height=\"20\"/><rect class=\"bar\" "
                   "x=\"%.1f\" "
                   "y=\"4\" width=\"%.1f\" height=\"20\"/></svg>\n",
        whole, pieces, WIDTH, width * whole / (whole + pieces),
        width * whole / (whole + pieces), width * pieces / (whole + pieces));
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
