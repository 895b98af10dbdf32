// SPDX-License-Identifier: Apache-2.0
#include "reference/request.h"

#include <math.h>
#include <stdio.h>

#include "base/json.h"

enum { EPISODE_ID_MAX = 255 };

// Python takes any; here the largest 64-bit value stands for all that does not fit.
#define SEED_MAX (UINT64_MAX - 1)

enum json_type ref_type_of(struct str value)
{
  switch (value.p[0]) {
  case '{':
    return JSON_OBJECT;
  case '[':
    return JSON_ARRAY;
  case '"':
    return JSON_STRING;
  case 't':
  case 'f':
    return JSON_BOOL;
  case 'n':
    return JSON_NULL;
  default:
    return JSON_NUMBER;
  }
}

// --- errors --------------------------------------------------------------------------------------------------------------------------------

bool ref_error_add(struct buf *errors, const char *type, struct str loc, const char *msg, struct str input, struct str ctx)
{
  return (!errors->n || buf_char(errors, ',')) && buf_printf(errors, "{\"type\":\"%s\",\"loc\":[", type) && buf_str(errors, loc) &&
         buf_printf(errors, "],\"msg\":\"%s\",\"input\":", msg) && buf_str(errors, input) &&
         (!ctx.n || (buf_str(errors, STR(",\"ctx\":")) && buf_str(errors, ctx))) && buf_char(errors, '}');
}

bool ref_error_dict(struct buf *errors, struct str loc, struct str input)
{
  return ref_error_add(errors, "dict_type", loc, "Input should be a valid dictionary", input, STR(""));
}

bool ref_error_missing(struct buf *errors, struct str loc, struct str input)
{
  return ref_error_add(errors, "missing", loc, "Field required", input, STR(""));
}

static bool error_string(struct buf *errors, struct str loc, struct str input)
{
  return ref_error_add(errors, "string_type", loc, "Input should be a valid string", input, STR(""));
}

// --- members -------------------------------------------------------------------------------------------------------------------------------

// The key with its quotes.
static struct str quoted(struct str raw_key)
{
  return (struct str){raw_key.p - 1, raw_key.n + 2};
}

static struct ref_member *find(struct ref_member *members, int n, struct str raw_key)
{
  for (int i = 0; i < n; i++)
    if (members[i].key.p && json_raw_eq(raw_key, (struct str){members[i].key.p + 1, members[i].key.n - 2}))
      return &members[i];
  return NULL;
}

bool ref_members(struct str object, struct ref_member *members, int n, struct buf *errors)
{
  struct json j;
  struct str key, value;
  json_init(&j, object, JSON_DEPTH_MAX);
  json_enter_object(&j);
  while (json_next_key(&j, &key) && json_skip(&j, &value)) {
    struct ref_member *m = find(members, n, key);
    if (m)
      m->value = value;
    else if (errors && !ref_error_add(errors, "extra_forbidden", quoted(key), "Extra inputs are not permitted", value, STR("")))
      return false;
  }
  return true;
}

// --- integers ------------------------------------------------------------------------------------------------------------------------------

// An integer of any size, cut off at 64 bits.
struct integer {
  bool negative;
  uint64_t magnitude;
};

static bool digits(struct str s, struct integer *out)
{
  *out = (struct integer){.negative = s.n && s.p[0] == '-'};
  if (s.n && (s.p[0] == '-' || s.p[0] == '+'))
    s = str_skip(s, 1);
  for (size_t i = 0; i < s.n; i++) {
    if (s.p[i] < '0' || s.p[i] > '9')
      return false;
    unsigned digit = (unsigned)(s.p[i] - '0');
    out->magnitude = out->magnitude > (UINT64_MAX - digit) / 10 ? UINT64_MAX : out->magnitude * 10 + digit;
  }
  return s.n > 0;
}

// What pydantic's lax mode takes for an int; otherwise the type of its error in `type` and its words in `msg`.
static bool to_integer(struct str value, struct integer *out, const char **type, const char **msg)
{
  *out = (struct integer){0};
  switch (ref_type_of(value)) {
  case JSON_BOOL:
    out->magnitude = value.p[0] == 't';
    return true;
  case JSON_STRING:
    *type = "int_parsing";
    *msg = "Input should be a valid integer, unable to parse string as an integer";
    return digits((struct str){value.p + 1, value.n - 2}, out);
  case JSON_NUMBER: {
    if (digits(value, out))
      return true;
    double d = json_double(value);
    bool finite = isfinite(d);
    *type = finite ? "int_from_float" : "finite_number";
    *msg = finite ? "Input should be a valid integer, got a number with a fractional part" : "Input should be a finite number";
    *out = (struct integer){.negative = d < 0, .magnitude = fabs(d) < 0x1p63 ? (uint64_t)fabs(d) : UINT64_MAX};
    return finite && d == floor(d);
  }
  case JSON_NULL:
  case JSON_ARRAY:
  case JSON_OBJECT:
    break;
  }
  *type = "int_type";
  *msg = "Input should be a valid integer";
  return false;
}

static bool error_bound(struct buf *errors, struct str loc, struct str input, bool least, uint64_t bound)
{
  char ctx[64], msg[64];
  int n = snprintf(ctx, sizeof ctx, "{\"%s\":%llu}", least ? "ge" : "le", (unsigned long long)bound);
  snprintf(msg, sizeof msg, "Input should be %s than or equal to %llu", least ? "greater" : "less", (unsigned long long)bound);
  return ref_error_add(errors, least ? "greater_than_equal" : "less_than_equal", loc, msg, input, (struct str){ctx, (size_t)n});
}

// No integer of ours may be negative.
static bool parse_integer(struct str value, struct str loc, uint64_t min, uint64_t max, uint64_t *out, struct buf *errors)
{
  struct integer i;
  const char *type, *msg;
  if (!to_integer(value, &i, &type, &msg))
    return ref_error_add(errors, type, loc, msg, value, STR(""));
  if ((i.negative && i.magnitude) || i.magnitude < min)
    return error_bound(errors, loc, value, true, min);
  if (i.magnitude > max)
    return error_bound(errors, loc, value, false, max);
  *out = i.magnitude;
  return true;
}

// --- actions -------------------------------------------------------------------------------------------------------------------------------

enum { FIELD, METADATA, DATA, FAULT, MS, CODE, BYTES, MEMBERS };

static const struct {
  struct str name;
  enum ref_fault fault;
} faults_by_name[] = {
    {{"slow", 4}, REF_FAULT_SLOW},
    {{"error", 5}, REF_FAULT_ERROR},
    {{"validation", 10}, REF_FAULT_VALIDATION},
    {{"garbage", 7}, REF_FAULT_GARBAGE},
    {{"binary", 6}, REF_FAULT_BINARY},
    {{"close", 5}, REF_FAULT_CLOSE},
    {{"drop", 4}, REF_FAULT_DROP},
    {{"hang", 4}, REF_FAULT_HANG},
    {{"exit", 4}, REF_FAULT_EXIT},
    {{"desync_extra", 12}, REF_FAULT_DESYNC_EXTRA},
    {{"big", 3}, REF_FAULT_BIG},
};

// Leaves `out` as it is when the member is not there.
static bool parse_option(const struct ref_member *m, uint64_t max, uint64_t *out, struct buf *errors)
{
  return !m->value.p || parse_integer(m->value, m->key, 0, max, out, errors);
}

static bool parse_fault(const struct ref_member *m, struct ref_step *out, struct buf *errors)
{
  uint64_t ms = 0, code = 0, bytes = 0;
  bool ok = parse_option(&m[MS], INT32_MAX, &ms, errors) && parse_option(&m[CODE], 4999, &code, errors) &&
            parse_option(&m[BYTES], 100 << 20, &bytes, errors);
  out->ms = (uint32_t)ms;
  out->code = m[CODE].value.p ? (int)code : -1;
  out->bytes = (size_t)bytes;
  if (!ok || !m[FAULT].value.p)
    return ok;
  bool string = ref_type_of(m[FAULT].value) == JSON_STRING;
  for (size_t i = 0; string && i < sizeof faults_by_name / sizeof *faults_by_name; i++)
    if (str_eq((struct str){m[FAULT].value.p + 1, m[FAULT].value.n - 2}, faults_by_name[i].name))
      out->fault = faults_by_name[i].fault;
  if (out->fault == REF_FAULT_NONE || out->fault == REF_FAULT_VALIDATION)
    return ref_error_add(errors, "literal_error", STR("\"fault\""), "Input should be the name of a fault", m[FAULT].value, STR(""));
  return true;
}

static bool parse_field(const struct ref_field *field, const struct ref_member *m, struct str action, struct ref_action *out, struct buf *errors)
{
  if (!m->value.p)
    return ref_error_missing(errors, m->key, action);
  if (field->type == REF_FIELD_INT) {
    uint64_t number = 0;
    bool ok = parse_integer(m->value, m->key, field->min, field->max, &number, errors);
    out->number = (int64_t)number;
    return ok;
  }
  if (ref_type_of(m->value) != JSON_STRING)
    return error_string(errors, m->key, m->value);
  out->raw = (struct str){m->value.p + 1, m->value.n - 2};
  return true;
}

bool ref_parse_action(const struct ref_env_kind *kind, bool faults, struct str action, struct ref_step *out, struct buf *errors)
{
  *out = (struct ref_step){.code = -1};
  char name[32];
  int n = snprintf(name, sizeof name, "\"%s\"", kind->field.name);
  struct ref_member m[MEMBERS] = {[FIELD] = {.key = {name, (size_t)n}}, [METADATA] = {.key = STR("\"metadata\"")}};
  if (kind->takes_data)
    m[DATA].key = STR("\"data\"");
  if (faults) {
    m[FAULT].key = STR("\"fault\"");
    m[MS].key = STR("\"ms\"");
    m[CODE].key = STR("\"code\"");
    m[BYTES].key = STR("\"bytes\"");
  }
  // pydantic's order: the fields as they are declared, then what is not allowed.
  struct buf extra = {0};
  bool ok = ref_members(action, m, MEMBERS, &extra);
  if (ok && m[METADATA].value.p && ref_type_of(m[METADATA].value) != JSON_OBJECT)
    ok = ref_error_dict(errors, m[METADATA].key, m[METADATA].value);
  ok = ok && parse_field(&kind->field, &m[FIELD], action, &out->action, errors) && parse_fault(m, out, errors);
  if (ok && extra.n)
    ok = (!errors->n || buf_char(errors, ',')) && buf_str(errors, buf_view(&extra));
  buf_free(&extra);
  out->action.data = m[DATA].value;
  return ok;
}

// --- reset ---------------------------------------------------------------------------------------------------------------------------------

bool ref_parse_reset(struct str data, bool body, struct ref_reset *out, struct buf *errors)
{
  *out = (struct ref_reset){0};
  struct ref_member m[] = {{.key = STR("\"seed\"")}, {.key = STR("\"episode_id\"")}};
  if (!ref_members(data, m, 2, NULL))
    return false;
  struct str seed = m[0].value, id = m[1].value;
  if (seed.p && ref_type_of(seed) != JSON_NULL) {
    size_t before = errors->n;
    if (!parse_integer(seed, body ? STR("\"body\",\"seed\"") : STR("\"seed\""), 0, SEED_MAX, &out->seed, errors))
      return false;
    out->has_seed = errors->n == before;
  }
  if (!id.p || ref_type_of(id) == JSON_NULL)
    return true;
  struct str loc = body ? STR("\"body\",\"episode_id\"") : STR("\"episode_id\"");
  if (ref_type_of(id) != JSON_STRING)
    return error_string(errors, loc, id);
  if (id.n - 2 > EPISODE_ID_MAX)
    return ref_error_add(errors, "string_too_long", loc, "String should have at most 255 characters", id, STR("{\"max_length\":255}"));
  out->episode_id = (struct str){id.p + 1, id.n - 2};
  return true;
}
