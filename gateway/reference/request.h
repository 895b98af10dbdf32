// SPDX-License-Identifier: Apache-2.0
// What callers send, checked as OpenEnv's server has pydantic check it. Every `struct str` handed in is one whole, valid JSON value.
//
// Faults are described as pydantic does: `errors` gets the items of a JSON array, {"type","loc","msg","input"} each. (pydantic adds a `url`
// with its own version.)
#ifndef ENVGATE_REFERENCE_REQUEST_H
#define ENVGATE_REFERENCE_REQUEST_H

#include "base/buf.h"
#include "base/json.h"
#include "reference/env.h"

// A WebSocket frame or a body's members.
struct ref_member {
  struct str key;   // with its quotes; p NULL: none is found
  struct str value; // p NULL: not there
};

// What an action may ask for besides what it is (see --faults).
enum ref_fault {
  REF_FAULT_NONE,
  REF_FAULT_SLOW,         // waits `ms`
  REF_FAULT_ERROR,        // the environment raises an exception
  REF_FAULT_VALIDATION,   // the action is refused
  REF_FAULT_GARBAGE,      // the reply is no JSON
  REF_FAULT_BINARY,       // the reply is a binary frame
  REF_FAULT_CLOSE,        // a close frame with `code` instead of the reply
  REF_FAULT_DROP,         // the connection ends without one
  REF_FAULT_HANG,         // no reply ever
  REF_FAULT_EXIT,         // the process exits with `code`
  REF_FAULT_DESYNC_EXTRA, // the reply comes twice
  REF_FAULT_BIG,          // the reply has `bytes` bytes
};

struct ref_step {
  struct ref_action action;
  enum ref_fault fault;
  uint32_t ms; // any fault comes so much later
  int code;    // -1: not given
  size_t bytes;
};

// The type of a valid value, by its first byte.
enum json_type ref_type_of(struct str value);

// Appends one error. `loc` is the inside of a JSON array; `ctx` a JSON object or empty.
bool ref_error_add(struct buf *errors, const char *type, struct str loc, const char *msg, struct str input, struct str ctx);

// The same for a value that must be an object and is not, and for one that is missing (`input` is what it is missing in).
bool ref_error_dict(struct buf *errors, struct str loc, struct str input);
bool ref_error_missing(struct buf *errors, struct str loc, struct str input);

// Finds the members named in `members` (whose `key` is set) in an object; the last of equals counts, as in Python. With `errors`, the others
// are refused. False: out of memory.
bool ref_members(struct str object, struct ref_member *members, int n, struct buf *errors);

// An action. False: out of memory; whether it is valid is whether `errors` stayed empty.
bool ref_parse_action(const struct ref_env_kind *kind, bool faults, struct str action, struct ref_step *out, struct buf *errors);

struct ref_reset {
  uint64_t seed;
  bool has_seed;
  struct str episode_id; // a raw JSON string; p NULL: none
};

// The arguments of reset: an object, whose unknown members are ignored. `body` says that it is a request's body, and so is the error's place.
bool ref_parse_reset(struct str data, bool body, struct ref_reset *out, struct buf *errors);

#endif
