#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/processor.h"
#include "kernels/reference.h"

// The instruction sets, best first: the namespace of a file beside this one, whether this processor runs it,
// and whether it is one of those to try first.
#if defined(__x86_64__)
constexpr bool kTakesInt8Dots = false;  // whether kernels use such an instruction
#define FSG_INSTRUCTION_SETS(SET)                          \
  SET(avx512, ProcessorLevel() >= kAvx512, /*first=*/true) \
  SET(avx2, ProcessorLevel() >= kAvx2, /*first=*/true)     \
  SET(sse2, /*runs=*/true, /*first=*/true)
#elif defined(__aarch64__)
constexpr bool kTakesInt8Dots = true;
#define FSG_INSTRUCTION_SETS(SET)           \
  SET(neon_a53, /*runs=*/true, IsInOrder()) \
  SET(neon_a72, /*runs=*/true, !IsInOrder())
#endif

namespace fsg {

#define FSG_DECLARE(name, runs, first) \
  namespace name {                     \
  extern const Kernels kExported;      \
  }
FSG_INSTRUCTION_SETS(FSG_DECLARE)

namespace {

// What this processor runs, best first; the scalar kernels, which are never the best, are the last.
struct Available {
  const Kernels* kernels[8];
  int count = 0;

  Available() {
    constexpr bool kTurns[] = {true, false};
    for (const bool turn : kTurns) {
#define FSG_ADD(name, runs, first) \
  if ((first) == turn && (runs)) kernels[count++] = &name::kExported;
      FSG_INSTRUCTION_SETS(FSG_ADD)
    }
    kernels[count++] = &reference::kKernels;
  }
};

// The name in FSG_KERNELS, or "auto".
const char* NameInEnvironment() {
  const char* name = getenv("FSG_KERNELS");
  return name == nullptr || *name == '\0' ? "auto" : name;
}

// Whether a name stands for the best kernels of this processor.
bool IsBest(const char* name) {
#if defined(__aarch64__)
  if (strcmp(name, "neon") == 0) return true;  // those tuned for it
#endif
  return strcmp(name, "auto") == 0;
}

}  // namespace

const Kernels* FindKernels(const char* name) {
  const Available available;
  if (strcmp(name, "auto") == 0) name = NameInEnvironment();
  if (IsBest(name)) return available.kernels[0];
  for (int i = 0; i < available.count; ++i) {
    if (strcmp(name, available.kernels[i]->name) == 0) return available.kernels[i];
  }
  return nullptr;
}

bool TakesInt8(const char* name) {
  if (strcmp(name, "auto") == 0) name = NameInEnvironment();
  return kTakesInt8Dots || !IsBest(name) || !HasInt8Dots();
}

void ListKernels(char names[kKernelNames]) {
  const Available available;
  names[0] = 0;
  for (int i = 0; i < available.count; ++i) {
    strcat(strcat(names, i == 0 ? "" : ", "), available.kernels[i]->name);
  }
}

}  // namespace fsg
