// SPDX-License-Identifier: Apache-2.0
// `envgate worker NAME`: a built-in OpenEnv worker for the quickstart, the tests and the benchmarks.
#ifndef ENVGATE_REFERENCE_REFERENCE_H
#define ENVGATE_REFERENCE_REFERENCE_H

#include "reference/options.h"

// Runs the worker until it is told to stop; argv[0] is "worker". Gives the exit status.
int reference_main(int argc, char **argv);

#endif
