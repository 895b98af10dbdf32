// SPDX-License-Identifier: Apache-2.0
// Private to transcode/: the types that google.protobuf.Any may hold.
#ifndef ENVGATE_TRANSCODE_ANY_H
#define ENVGATE_TRANSCODE_ANY_H

#include <protobuf-c/protobuf-c.h>

#include "base/str.h"
#include "transcode/transcode.h"

// The message that a type URL ("type.googleapis.com/google.rpc.ErrorInfo") names; NULL: none of `types`, which may be NULL.
const ProtobufCMessageDescriptor *any_type(const struct message_types *types, struct str url);

#endif
