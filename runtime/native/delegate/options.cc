#include "delegate/options.h"

#include <string.h>

// https://flatbuffers.dev/internals/#flexbuffers: the buffer ends in [root value][root type][root width];
// offsets point backwards; a map is a vector of values, followed by their types, whose prefix names a sorted
// vector of keys.
namespace fsg {
namespace {

enum Type { kInt = 1, kUInt = 2, kIndirectInt = 6, kIndirectUInt = 7, kMap = 9, kBool = 26 };

struct Buffer {
  const uint8_t* data;
  size_t size;

  bool Read(size_t at, size_t width, uint64_t* value) const {
    if (width != 1 && width != 2 && width != 4 && width != 8) return false;
    if (at > size || width > size - at) return false;
    *value = 0;
    memcpy(value, data + at, width);  // both targets are little-endian
    return true;
  }

  // Follows the offset stored at `at`.
  bool Follow(size_t at, size_t width, size_t* target) const {
    uint64_t offset;
    if (!Read(at, width, &offset) || offset > at) return false;
    *target = at - offset;
    return true;
  }

  bool KeyIs(size_t at, const char* key, bool* same) const {
    if (at >= size) return false;
    const size_t room = size - at;
    const size_t length = strnlen(reinterpret_cast<const char*>(data) + at, room);
    if (length == room) return false;
    *same = strcmp(reinterpret_cast<const char*>(data) + at, key) == 0;
    return true;
  }
};

int64_t SignExtend(uint64_t value, size_t width) {
  const int shift = 64 - 8 * static_cast<int>(width);
  return static_cast<int64_t>(value << shift) >> shift;
}

// Reads the integer of the packed type byte `packed` whose slot of `width` bytes is at `at`.
bool ReadInt(const Buffer& buffer, size_t at, size_t width, uint8_t packed, int64_t* value) {
  const int type = packed >> 2;
  if (type == kIndirectInt || type == kIndirectUInt) {
    if (!buffer.Follow(at, width, &at)) return false;
    width = size_t{1} << (packed & 3);
  } else if (type != kInt && type != kUInt && type != kBool) {
    return false;
  }
  uint64_t bits;
  if (!buffer.Read(at, width, &bits)) return false;
  const bool is_signed = type == kInt || type == kIndirectInt;
  *value = is_signed ? SignExtend(bits, width) : static_cast<int64_t>(bits);
  return is_signed || *value >= 0;
}

}  // namespace

Lookup FindInt(const void* data, size_t size, const char* key, int64_t* value) {
  const Buffer buffer{static_cast<const uint8_t*>(data), data == nullptr ? 0 : size};
  if (buffer.size < 3) return Lookup::kMalformed;
  const size_t root_width = buffer.data[size - 1];
  const uint8_t root_type = buffer.data[size - 2];
  if (root_type >> 2 != kMap || root_width > size - 2) return Lookup::kMalformed;

  size_t values, keys;
  const size_t width = size_t{1} << (root_type & 3);
  uint64_t count, key_width;
  if (!buffer.Follow(size - 2 - root_width, root_width, &values) || values < 3 * width ||
      !buffer.Read(values - width, width, &count) || !buffer.Read(values - 2 * width, width, &key_width) ||
      !buffer.Follow(values - 3 * width, width, &keys) || count > (size - values) / (width + 1)) {
    return Lookup::kMalformed;
  }
  for (size_t i = 0; i < count; ++i) {
    size_t name;
    bool same;
    if (!buffer.Follow(keys + i * key_width, key_width, &name) || !buffer.KeyIs(name, key, &same)) {
      return Lookup::kMalformed;
    }
    if (!same) continue;
    const uint8_t type = buffer.data[values + count * width + i];
    return ReadInt(buffer, values + i * width, width, type, value) ? Lookup::kFound : Lookup::kMalformed;
  }
  return Lookup::kMissing;
}

}  // namespace fsg
