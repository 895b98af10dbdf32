// SPDX-License-Identifier: Apache-2.0
// Private to transcode/: the paths of tensors, as JSON Pointers (RFC 6901).
#ifndef ENVGATE_TRANSCODE_TENSOR_PATHS_H
#define ENVGATE_TRANSCODE_TENSOR_PATHS_H

#include "transcode/tensors.h"

// Its syntax and length. False: INVALID_ARGUMENT for `field`.
bool tensor_path_check(struct str path, const char *field, struct err *e);

// Whether what `inner` names is, or lies in, what `outer` names.
bool tensor_path_within(struct str inner, struct str outer);

// How many names a path that is good has.
size_t tensor_path_names(struct str path);

// Its names without escapes; their text goes to `to`, which has room for path.n bytes. Returns what is behind it.
char *tensor_path_split(struct str path, struct str *names, char *to);

#endif
