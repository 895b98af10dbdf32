// SPDX-License-Identifier: Apache-2.0
// NumPy's default generator, number for number: SeedSequence feeds PCG64 (XSL-RR 128/64), as np.random.default_rng(seed) does.
//
// PCG64: M. E. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation",
// Harvey Mudd College HMC-CS-2014-0905. SeedSequence: M. E. O'Neill, "Developing a seed_seq Alternative" (2015), with the constants of
// NumPy's documentation ("numpy.random.SeedSequence").
#ifndef ENVGATE_REFERENCE_PCG64_H
#define ENVGATE_REFERENCE_PCG64_H

#include <stdint.h>

struct pcg64 {
  __extension__ unsigned __int128 state, increment;
};

void pcg64_seed(struct pcg64 *g, uint64_t seed);

uint64_t pcg64_next(struct pcg64 *g);

// Uniform in [low, high), with NumPy's rounding.
double pcg64_uniform(struct pcg64 *g, double low, double high);

#endif
