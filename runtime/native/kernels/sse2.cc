#include <string.h>

#include "kernels/kernels.h"

#if defined(__x86_64__)
#define FSG_KERNELS_NAME "sse2"

namespace fsg::sse2 {
namespace {
#include "kernels/bits_portable.h"
#include "kernels/dots_portable.h"

constexpr int kInt8Width = 16, kInt8Tile = 4;
using Sums = int32_t __attribute__((vector_size(16)));
using Shorts = int16_t __attribute__((vector_size(16)));
inline Sums MultiplyPairs(Shorts a, Shorts b) { return __builtin_ia32_pmaddwd128(a, b); }
#include "kernels/int8_x86.h"
#include "kernels/kernels_body.h"
}  // namespace

extern const Kernels kExported;
constexpr Kernels kExported = kKernels;

}  // namespace fsg::sse2
#endif
