// SPDX-License-Identifier: Apache-2.0
// The table of settings as a JSON Schema (draft 2020-12), for editors and for checking files elsewhere.
#ifndef ENVGATE_CONFIG_SCHEMA_H
#define ENVGATE_CONFIG_SCHEMA_H

#include "base/buf.h"

// Appends the schema, indented, with a newline at its end. False when out of memory.
bool config_schema(struct buf *out);

#endif
