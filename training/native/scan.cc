#include "scan.h"

#include <stdlib.h>
#include <string.h>

#include "../../runtime/native/processor.h"

#define FSG_SCAN_NAME "portable"

namespace fsg {
namespace portable {
namespace {
#include "scan_body.h"
}  // namespace
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
extern const ScanKernels* const kScan;
}
namespace avx512 {
extern const ScanKernels* const kScan;
}
#endif

namespace {

const ScanKernels* FindScan(const char* name) {
  const bool best = strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  const Level level = ProcessorLevel();
  if (level >= kAvx512 && (best || strcmp(name, avx512::kScan->name) == 0)) return avx512::kScan;
  if (level >= kAvx2 && (best || strcmp(name, avx2::kScan->name) == 0)) return avx2::kScan;
#endif
  return best || strcmp(name, portable::kKernels.name) == 0 ? &portable::kKernels : nullptr;
}

}  // namespace
}  // namespace fsg

// Both return 0, 1 where this processor lacks the instruction set of that name, or 2 where memory is lacking.
#define FSG_EXPORT extern "C" __attribute__((visibility("default")))

FSG_EXPORT int fsg_scan_forward(const char* instructions, const fsg::Scan* scan, const fsg::Item* item) {
  const fsg::ScanKernels* kernels = fsg::FindScan(instructions);
  return kernels == nullptr ? 1 : kernels->forward(*scan, *item) ? 0 : 2;
}

FSG_EXPORT int fsg_scan_backward(const char* instructions, const fsg::Scan* scan, const fsg::Item* item) {
  const fsg::ScanKernels* kernels = fsg::FindScan(instructions);
  return kernels == nullptr ? 1 : kernels->backward(*scan, *item) ? 0 : 2;
}
