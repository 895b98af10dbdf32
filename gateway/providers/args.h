// SPDX-License-Identifier: Apache-2.0
// Lists of strings, as a command line or a process's environment.
#ifndef ENVGATE_PROVIDERS_ARGS_H
#define ENVGATE_PROVIDERS_ARGS_H

#include "config/config.h"

// Appends a copy of `text`. False when out of memory; the list is then unchanged.
bool args_add(struct strings *a, const char *text);
// Appends what is printed.
bool args_addf(struct strings *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// Appends copies of all of `more`.
bool args_add_all(struct strings *a, const struct strings *more);
// Frees the strings and empties the list.
void args_free(struct strings *a);

#endif
