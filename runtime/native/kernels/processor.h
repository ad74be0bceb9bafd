// Which instruction sets this processor and its operating system offer.

#ifndef FSG_KERNELS_PROCESSOR_H_
#define FSG_KERNELS_PROCESSOR_H_

#include <stdint.h>

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
  constexpr unsigned kPopcount = 1u << 14;  // VPOPCNTDQ
  const bool has_avx512 = (b & kFoundation) == kFoundation && (c & kPopcount);
  return (saved_low & kZmm) == kZmm && has_avx512 ? kAvx512 : kAvx2;
}

// Whether it multiplies and adds four 8-bit integers at once: VNNI, for any width of registers.
inline bool HasInt8Dots() {
  unsigned a, b, c, d;
  if (ProcessorLevel() == kBaseline || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kAvx512Vnni = 1u << 11, kAvxVnni = 1u << 4;
  if (ProcessorLevel() == kAvx512 && (c & kAvx512Vnni)) return true;
  return a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kAvxVnni);
}

}  // namespace fsg

#elif defined(__aarch64__)
#include <sys/auxv.h>

namespace fsg {

// Whether the processor issues instructions in program order, like the Cortex-A53: code for it is scheduled
// differently. No if the kernel does not let programs read the identification register.
inline bool IsInOrder() {
  constexpr unsigned long kCpuid = 1 << 11;  // HWCAP_CPUID
  if (!(getauxval(AT_HWCAP) & kCpuid)) return false;
  uint64_t midr;
  __asm__("mrs %0, MIDR_EL1" : "=r"(midr));
  constexpr uint64_t kArm = 0x41, kCortex[] = {0xd02, 0xd03, 0xd04, 0xd05, 0xd46, 0xd80};  // A34 ... A520
  if (midr >> 24 != kArm) return false;
  for (const uint64_t part : kCortex) {
    if ((midr >> 4 & 0xfff) == part) return true;
  }
  return false;
}

// Whether it multiplies and adds four 8-bit integers at once.
inline bool HasInt8Dots() {
  constexpr unsigned long kDots = 1 << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDots;
}

}  // namespace fsg

#endif
#endif  // FSG_KERNELS_PROCESSOR_H_
