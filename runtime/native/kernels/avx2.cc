#include <string.h>

#include "kernels/kernels.h"

#if defined(__x86_64__)
#define FSG_KERNELS_NAME "avx2"

namespace fsg::avx2 {
namespace {
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#include "kernels/bits_portable.h"
#include "kernels/dots_portable.h"
#include "kernels/kernels_body.h"
#pragma clang attribute pop
}  // namespace

extern const Kernels kExported;
constexpr Kernels kExported = kKernels;

}  // namespace fsg::avx2
#endif
