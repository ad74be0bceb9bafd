#include "benchmark/fail.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void Fail(const char* format, ...) {
  fflush(stdout);
  fputs("fsg_benchmark: ", stderr);
  va_list values;
  va_start(values, format);
  vfprintf(stderr, format, values);
  va_end(values);
  fputc('\n', stderr);
  exit(2);
}
