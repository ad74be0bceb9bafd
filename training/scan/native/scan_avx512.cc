#include <stdlib.h>
#include <string.h>

#include "scan.h"

#if defined(__x86_64__)
#define FSG_SCAN_NAME "avx512"

namespace fsg::avx512 {
namespace {
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))), \
                             apply_to = function)
#include "scan_body.h"
#pragma clang attribute pop
}  // namespace

extern const ScanKernels* const kScan;
const ScanKernels* const kScan = &kKernels;

}  // namespace fsg::avx512
#endif
