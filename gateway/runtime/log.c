// SPDX-License-Identifier: Apache-2.0
#include "runtime/log.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/utf8.h"

// A line fits PIPE_BUF, up to which writes to a pipe are not torn.
enum { GATHER_MAX = 64 << 10, LINE_MAX_BYTES = 4096, VALUE_MAX = 1024, NUMBER_MAX = 32 };

// What every line may still need behind its last field: ,"truncated":true}\n
static const char cut_json[] = ",\"truncated\":true", cut_logfmt[] = " truncated=true";
enum { TAIL = sizeof cut_json + 2 };

static const char ellipsis[] = "\xE2\x80\xA6";

struct line {
  enum log_format format;
  size_t n;
  char at[LINE_MAX_BYTES];
};

static size_t room(const struct line *l)
{
  return LINE_MAX_BYTES - TAIL - l->n;
}

static void put(struct line *l, const char *p, size_t n)
{
  memcpy(l->at + l->n, p, n);
  l->n += n;
}

static void put_c(struct line *l, const char *s)
{
  put(l, s, strlen(s));
}

// A character as it may stand in quotes, in `out`; `used` is how many bytes of the text it was. What a terminal or a line reader could take for an end
// of line or a command is escaped: the C0 and C1 controls, U+2028 and U+2029.
static size_t escape(const char *p, size_t n, char out[8], size_t *used)
{
  unsigned char c = (unsigned char)*p;
  size_t length = utf8_length(p, n);
  *used = length ? length : 1;
  if (!length)
    return (size_t)snprintf(out, 8, "\xEF\xBF\xBD");
  if (c == '"' || c == '\\')
    return (size_t)snprintf(out, 8, "\\%c", c);
  if (c == '\n' || c == '\r' || c == '\t')
    return (size_t)snprintf(out, 8, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
  if (c < 0x20 || c == 0x7F)
    return (size_t)snprintf(out, 8, "\\u%04x", c);
  if (c == 0xC2 && (unsigned char)p[1] < 0xA0)
    return (size_t)snprintf(out, 8, "\\u%04x", (unsigned char)p[1]);
  if (c == 0xE2 && (unsigned char)p[1] == 0x80 && ((unsigned char)p[2] == 0xA8 || (unsigned char)p[2] == 0xA9))
    return (size_t)snprintf(out, 8, "\\u20%x", (unsigned char)p[2] - 0x80);
  memcpy(out, p, length);
  return length;
}

// How many bytes at the start of the text are printable ASCII that no format escapes.
static size_t plain_run(const char *p, size_t n)
{
  size_t i = 0;
  while (i < n && p[i] > 0x20 && p[i] < 0x7F && p[i] != '"' && p[i] != '\\' && p[i] != '=')
    i++;
  return i;
}

// True for what logfmt can have without quotes.
static bool is_plain(struct str s)
{
  s = str_skip(s, plain_run(s.p, s.n));
  char out[8];
  size_t used;
  for (size_t i = 0; i < s.n; i += used) {
    if (s.p[i] == ' ' || s.p[i] == '=')
      return false;
    if (escape(s.p + i, s.n - i, out, &used) != used || memcmp(out, s.p + i, used) != 0)
      return false;
  }
  return true;
}

// Writes a string in at most `max` bytes: what is over is cut at a character, and an ellipsis shows it.
static void put_string(struct line *l, struct str s, size_t max)
{
  bool quoted = l->format == LOG_JSON || !is_plain(s);
  size_t left = max - 2 - (sizeof ellipsis - 1), used;
  if (quoted)
    put(l, "\"", 1);
  size_t run = plain_run(s.p, s.n);
  run = run < left ? run : left;
  put(l, s.p, run);
  left -= run;
  for (size_t i = run; i < s.n; i += used) {
    char out[8];
    size_t n = escape(s.p + i, s.n - i, out, &used);
    if (n > left) {
      put_c(l, ellipsis);
      break;
    }
    put(l, out, n);
    left -= n;
  }
  if (quoted)
    put(l, "\"", 1);
}

static void put_number(struct line *l, double d)
{
  char text[NUMBER_MAX];
  if (isfinite(d))
    snprintf(text, sizeof text, "%.9g", d);
  else if (l->format == LOG_JSON)
    snprintf(text, sizeof text, "null"); // JSON has no other number for it
  else
    snprintf(text, sizeof text, "%s", isnan(d) ? "NaN" : d > 0 ? "+Inf" : "-Inf");
  put_c(l, text);
}

static void put_key(struct line *l, const char *key)
{
  if (l->format == LOG_JSON) {
    put_c(l, l->n ? ",\"" : "{\"");
    put_c(l, key);
    put_c(l, "\":");
    return;
  }
  if (l->n)
    put(l, " ", 1);
  put_c(l, key);
  put(l, "=", 1);
}

// False when there is no room left for the field.
static bool put_field(struct line *l, const struct log_field *f)
{
  if (f->type == LOG_STR && f->s.n == 0)
    return true;
  size_t head = strlen(f->key) + 4, left = room(l);
  if (left < head + NUMBER_MAX)
    return false;
  left -= head;
  put_key(l, f->key);
  if (f->type == LOG_STR) {
    put_string(l, f->s, left < VALUE_MAX ? left : VALUE_MAX);
  } else if (f->type == LOG_INT) {
    char text[NUMBER_MAX];
    snprintf(text, sizeof text, "%lld", (long long)f->i);
    put_c(l, text);
  } else {
    put_number(l, f->d);
  }
  return true;
}

// RFC 3339 in UTC with milliseconds. Years have four digits there.
static void put_time(struct line *l, struct log_gather *gather)
{
  struct timespec now;
  struct tm tm;
  struct log_gather own = {.second = -1};
  struct log_gather *last = gather ? gather : &own;
  clock_gettime(CLOCK_REALTIME, &now);
  if (now.tv_sec != last->second) {
    gmtime_r(&now.tv_sec, &tm);
    strftime(last->stamp, sizeof last->stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    last->second = now.tv_sec;
  }
  long milli = now.tv_nsec / 1000000 % 1000;
  const char ms[] = {'.', (char)('0' + milli / 100), (char)('0' + milli / 10 % 10), (char)('0' + milli % 10), 'Z', '\0'};
  put_key(l, "ts");
  put_c(l, l->format == LOG_JSON ? "\"" : "");
  put_c(l, last->stamp);
  put_c(l, ms);
  put_c(l, l->format == LOG_JSON ? "\"" : "");
}

static const char *level_name(enum log_level level)
{
  switch (level) {
  case LOG_DEBUG:
    return "debug";
  case LOG_INFO:
    return "info";
  case LOG_WARN:
    return "warn";
  case LOG_ERROR:
    break;
  }
  return "error";
}

static bool write_all(int fd, const char *p, size_t n)
{
  while (n) {
    ssize_t written = write(fd, p, n);
    if (written < 0 && errno != EINTR)
      return false;
    if (written > 0) {
      p += written;
      n -= (size_t)written;
    }
  }
  return true;
}

// A log that nobody reads or whose disk is full must not stop the gateway: what can't be written is lost. What comes next begins on a line of its own,
// whoever's line was cut there: with a full disk, other threads' writes fail, too.
static void write_out(const struct log *l, const char *p, size_t n)
{
  bool ok = (!l->gather || !l->gather->lost || write_all(l->fd, "\n", 1)) && write_all(l->fd, p, n);
  if (l->gather)
    l->gather->lost = !ok;
}

void log_write(const struct log *l, enum log_level level, const char *event, const struct log_field *fields, int n)
{
  if (!log_on(l, level))
    return;
  struct line line; // not zeroed: it is large
  line.format = l->format;
  line.n = 0;
  const struct log_field name[] = {LF_C("level", level_name(level)), LF_C("event", event)};
  put_time(&line, l->gather);
  put_field(&line, &name[0]);
  put_field(&line, &name[1]);
  bool all = true;
  for (int i = 0; i < n; i++)
    all &= put_field(&line, &fields[i]);
  if (!all)
    put_c(&line, line.format == LOG_JSON ? cut_json : cut_logfmt);
  put_c(&line, line.format == LOG_JSON ? "}\n" : "\n");
  if (!l->gather || !buf_add(&l->gather->lines, line.at, line.n)) {
    write_out(l, line.at, line.n);
    return;
  }
  if (level >= LOG_WARN || l->gather->lines.n > GATHER_MAX)
    log_flush(l);
}

void log_flush(const struct log *l)
{
  struct buf *lines = &l->gather->lines;
  if (!lines->n)
    return;
  write_out(l, lines->p, lines->n);
  lines->n = 0;
}
