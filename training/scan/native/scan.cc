#include "scan.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/processor.h"

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

// While it lives, this thread takes subnormal numbers for 0: what has decayed that far would cost a
// hundredfold.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(saved_ | 0x8040); }
  ~FlushSubnormals() { __builtin_ia32_ldmxcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushSubnormals() : saved_(__builtin_arm_rsr64("fpcr")) { __builtin_arm_wsr64("fpcr", saved_ | 1 << 24); }
  ~FlushSubnormals() { __builtin_arm_wsr64("fpcr", saved_); }

 private:
  uint64_t saved_;
#endif
};

int Run(const char* instructions, bool (*ScanKernels::*pass)(const Scan&, const Item&), const Scan& scan,
        const Item& item) {
  const ScanKernels* kernels = FindScan(instructions);
  if (kernels == nullptr) return 1;
  const FlushSubnormals flush;
  return (kernels->*pass)(scan, item) ? 0 : 2;
}

}  // namespace
}  // namespace fsg

// Both return 0, 1 where this processor lacks the instruction set of that name, or 2 where memory is lacking.
#define FSG_EXPORT extern "C" __attribute__((visibility("default")))

FSG_EXPORT int fsg_scan_forward(const char* instructions, const fsg::Scan* scan, const fsg::Item* item) {
  return fsg::Run(instructions, &fsg::ScanKernels::forward, *scan, *item);
}

FSG_EXPORT int fsg_scan_backward(const char* instructions, const fsg::Scan* scan, const fsg::Item* item) {
  return fsg::Run(instructions, &fsg::ScanKernels::backward, *scan, *item);
}
