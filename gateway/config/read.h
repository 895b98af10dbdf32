// SPDX-License-Identifier: Apache-2.0
// Reads a configuration file's text into a struct config, by the table of settings.
#ifndef ENVGATE_CONFIG_READ_H
#define ENVGATE_CONFIG_READ_H

#include "config/config.h"
#include "config/report.h"

// Reads into `c`, which has its defaults. Every mistake goes to the report; when there is one, `c` is fit for config_free only.
void config_read(struct str text, struct config *c, struct report *r);

#endif
