#include <string.h>

#include "kernels.h"

#if defined(__x86_64__)
#define FSG_KERNELS_NAME "sse2"

namespace fsg::sse2 {
namespace {
#include "bits_portable.h"
#include "dots_portable.h"
#include "kernels_body.h"
}  // namespace

extern const Kernels kExported;
constexpr Kernels kExported = kKernels;

}  // namespace fsg::sse2
#endif
