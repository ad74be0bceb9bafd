#include <string.h>

#include "kernels/kernels.h"

#if defined(__x86_64__)
#define FSG_KERNELS_NAME "sse2"

namespace fsg::sse2 {
namespace {
#include "kernels/bits_portable.h"
#include "kernels/dots_portable.h"
#include "kernels/kernels_body.h"
}  // namespace

extern const Kernels kExported;
constexpr Kernels kExported = kKernels;

}  // namespace fsg::sse2
#endif
