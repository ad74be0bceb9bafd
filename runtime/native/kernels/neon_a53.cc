#include <string.h>

#include "kernels/kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#define FSG_KERNELS_NAME "neon-a53"

namespace fsg::neon_a53 {
namespace {
#pragma clang attribute push(__attribute__((target("tune=cortex-a53"))), apply_to = function)
#include "kernels/bits_neon.h"
#include "kernels/dots_neon.h"
#include "kernels/int8_neon.h"

constexpr int kTile = 8;
constexpr decltype(&Dots<1>) kDots[kTile] = {Dots<1>, Dots<2>, Dots<3>, Dots<4>,
                                             Dots<5>, Dots<6>, Dots<7>, Dots<8>};

#include "kernels/kernels_body.h"
#pragma clang attribute pop
}  // namespace

extern const Kernels kExported;
constexpr Kernels kExported = kKernels;

}  // namespace fsg::neon_a53
#endif
