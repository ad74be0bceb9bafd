// Fuzz target: the reader of custom options, on bytes of their exact size.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <initializer_list>

#include "delegate/options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto* options = static_cast<uint8_t*>(malloc(size));  // no byte to spare on either side
  if (size > 0) memcpy(options, data, size);
  for (const char* key : {"channels_in", "padding", "x", ""}) {
    int64_t value = 0;
    fsg::FindInt(options, size, key, &value);
  }
  free(options);
  return 0;
}
