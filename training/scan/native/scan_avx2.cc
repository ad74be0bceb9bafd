#include <stdlib.h>
#include <string.h>

#include "scan.h"

#if defined(__x86_64__)
#define FSG_SCAN_NAME "avx2"

namespace fsg::avx2 {
namespace {
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include "scan_body.h"
#pragma clang attribute pop
}  // namespace

extern const ScanKernels* const kScan;
const ScanKernels* const kScan = &kKernels;

}  // namespace fsg::avx2
#endif
