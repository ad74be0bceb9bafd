#include <string.h>

#include "kernels/kernels.h"

#if defined(__x86_64__)
#define FSG_KERNELS_NAME "avx2"

namespace fsg::avx2 {
namespace {
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#include "kernels/bits_portable.h"
#include "kernels/dots_portable.h"

constexpr int kInt8Width = 32, kInt8Tile = 6;
using Sums = int32_t __attribute__((vector_size(32)));
using Shorts = int16_t __attribute__((vector_size(32)));
inline Sums MultiplyPairs(Shorts a, Shorts b) { return __builtin_ia32_pmaddwd256(a, b); }
#include "kernels/int8_x86.h"
#include "kernels/kernels_body.h"
#pragma clang attribute pop
}  // namespace

extern const Kernels kExported;
constexpr Kernels kExported = kKernels;

}  // namespace fsg::avx2
#endif
