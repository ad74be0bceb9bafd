#ifndef FSG_BENCHMARKS_KERNELS_CHECK_H_
#define FSG_BENCHMARKS_KERNELS_CHECK_H_

#include <stdint.h>

#include "kernels/kernels.h"

// Compares kernels with their scalar twins on `count` random shapes and prints where they differ. 1 if they
// do.
int Check(const fsg::Kernels& kernels, uint64_t seed, int count);

#endif  // FSG_BENCHMARKS_KERNELS_CHECK_H_
