/* Runs a model.c without an operating system: the images of a file, and their results into another, through
 * the emulator's semihosting; then how many bytes of stack that took. */
#include <stddef.h>
#include <stdint.h>

#include "model.h"

#define STACK 65536 /* bytes that are looked at */
#define UNTOUCHED 0x5afe5afeu

extern uint32_t fsg_stack_top[];
void fsg_reset(void);

#ifdef FSG_PIXELS
static unsigned char image[FSG_INPUTS];
#else
static float image[FSG_INPUTS];
#endif
static float result[FSG_OUTPUTS];

/* As C libraries for such cores have it; the compiler's own goes byte by byte. */
__attribute__((no_builtin("memcpy"))) void* memcpy(void* restrict to, const void* restrict from,
                                                   size_t size) {
  unsigned char* out = to;
  const unsigned char* in = from;
  for (; size >= 16; size -= 16, in += 16, out += 16) {
    uint32_t a, b, c, d;
    __builtin_memcpy_inline(&a, in, 4);
    __builtin_memcpy_inline(&b, in + 4, 4);
    __builtin_memcpy_inline(&c, in + 8, 4);
    __builtin_memcpy_inline(&d, in + 12, 4);
    __builtin_memcpy_inline(out, &a, 4);
    __builtin_memcpy_inline(out + 4, &b, 4);
    __builtin_memcpy_inline(out + 8, &c, 4);
    __builtin_memcpy_inline(out + 12, &d, 4);
  }
  for (; size > 0; --size) *out++ = *in++;
  return to;
}

/* ARM's semihosting: what the host is to do, and a block of arguments. */
enum { OPEN = 1, WRITE = 5, READ = 6, EXIT = 0x20 };
enum { READ_BYTES = 1, WRITE_BYTES = 5 };

static int32_t host(int32_t operation, const void* arguments) {
  register int32_t r0 __asm("r0") = operation;
  register const void* r1 __asm("r1") = arguments;
  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static int32_t opened(const char* name, uint32_t length, uint32_t mode) {
  const uint32_t arguments[3] = {(uint32_t)name, mode, length};
  return host(OPEN, arguments);
}

/* How many of the bytes were not read or written. */
static int32_t transfer(int32_t operation, int32_t file, const void* bytes, uint32_t size) {
  const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)bytes, size};
  return host(operation, arguments);
}

void fsg_reset(void) {
  uint32_t status[2] = {0x20026, 0}; /* that the program ends as it wants to, and its exit code */
  uint32_t *const bottom = fsg_stack_top - STACK / 4, *place;
  uint32_t used;
  int32_t in, out;
#ifdef __ARM_FP
  *(volatile uint32_t*)0xE000ED88 |= 0xFu << 20; /* a core's floating point is off after a reset */
  __asm volatile("dsb\n\tisb");
#endif
  for (place = bottom; place < (uint32_t*)__builtin_frame_address(0) - 32; ++place) *place = UNTOUCHED;
  in = opened("images", 6, READ_BYTES);
  out = opened("results", 7, WRITE_BYTES);
  while (transfer(READ, in, image, sizeof(image)) == 0) {
    status[1] |= (uint32_t)fsg_invoke(image, result);
    status[1] |= (uint32_t)transfer(WRITE, out, result, sizeof(result));
  }
  for (place = bottom; *place == UNTOUCHED; ++place) {
  }
  used = (uint32_t)((unsigned char*)fsg_stack_top - (unsigned char*)place);
  status[1] |= (uint32_t)transfer(WRITE, out, &used, sizeof(used));
  host(EXIT, status);
  for (;;) {
  }
}

__attribute__((section(".vectors"), used)) static const void* const vectors[2] = {fsg_stack_top,
                                                                                  (const void*)fsg_reset};
