#include <string.h>

#include "kernels.h"

#if defined(__x86_64__)
#define FSG_KERNELS_NAME "avx512"

namespace fsg::avx512 {
namespace {
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bitalg"))), \
                             apply_to = function)
#include "kernels_body.h"
#pragma clang attribute pop
}  // namespace

extern const Kernels* const kExported;
const Kernels* const kExported = &kKernels;

}  // namespace fsg::avx512
#endif
