// Which instruction sets this processor and its operating system offer.

#ifndef FSG_RUNTIME_NATIVE_PROCESSOR_H_
#define FSG_RUNTIME_NATIVE_PROCESSOR_H_

#if defined(__x86_64__)
#include <cpuid.h>

namespace fsg {

enum Level { kBaseline, kAvx2, kAvx512 };

// Read by hand: __builtin_cpu_supports says no to everything in this toolchain's libraries.
inline Level ProcessorLevel() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return kBaseline;
  unsigned saved_low, saved_high;
  __asm__("xgetbv" : "=a"(saved_low), "=d"(saved_high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return kBaseline;
  constexpr unsigned kYmm = 0x6, kZmm = 0xe6;  // register state the operating system saves
  if ((saved_low & kYmm) != kYmm || !(b & bit_AVX2)) return kBaseline;
  constexpr unsigned kFoundation = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
  const bool has_avx512 = (b & kFoundation) == kFoundation && (c & bit_AVX512BITALG);
  return (saved_low & kZmm) == kZmm && has_avx512 ? kAvx512 : kAvx2;
}

}  // namespace fsg

#endif
#endif  // FSG_RUNTIME_NATIVE_PROCESSOR_H_
