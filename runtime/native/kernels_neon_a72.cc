#include <string.h>

#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#define FSG_KERNELS_NAME "neon-a72"

namespace fsg::neon_a72 {
namespace {
#pragma clang attribute push(__attribute__((target("tune=cortex-a72"))), apply_to = function)
constexpr int kTile = 4;
#include "dots_neon.h"
#include "kernels_body.h"
#pragma clang attribute pop
}  // namespace

extern const Kernels kExported;
constexpr Kernels kExported = kKernels;

}  // namespace fsg::neon_a72
#endif
