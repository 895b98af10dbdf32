// SPDX-License-Identifier: Apache-2.0
#ifndef ENVGATE_BASE_FILE_H
#define ENVGATE_BASE_FILE_H

#include "base/buf.h"

// Appends a file's bytes to `out`, up to out->max of them. False with errno: it can't be read, is larger (EFBIG), or there is no memory (ENOMEM).
bool file_read(const char *path, struct buf *out);

#endif
