// Reads the custom options of the LCE operators: a FlexBuffer map of small integers, from a file nobody has
// checked. By hand, since the flatbuffers library would bring its C++ run time along, and trusts what it
// reads.
#ifndef FSG_DELEGATE_OPTIONS_H_
#define FSG_DELEGATE_OPTIONS_H_

#include <stddef.h>
#include <stdint.h>

namespace fsg {

enum class Lookup { kFound, kMissing, kMalformed };

// Finds `key` in the FlexBuffer map of `size` bytes at `data`. Never reads outside those bytes.
Lookup FindInt(const void* data, size_t size, const char* key, int64_t* value);

}  // namespace fsg

#endif  // FSG_DELEGATE_OPTIONS_H_
