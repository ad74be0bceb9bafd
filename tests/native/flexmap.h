// Writes a FlexBuffer map of integers as LCE's converter does for custom options.
// https://flatbuffers.dev/internals/#flexbuffers
#ifndef FSG_TESTS_NATIVE_FLEXMAP_H_
#define FSG_TESTS_NATIVE_FLEXMAP_H_

#include <stdint.h>
#include <string.h>

#include <utility>
#include <vector>

// `fields` in the order of their names. Every slot is four bytes wide.
inline std::vector<uint8_t> Flexmap(const std::vector<std::pair<const char*, int>>& fields) {
  constexpr uint32_t kWidth = 4, kInt = 1, kMap = 9, kWidthBits = 2;
  std::vector<uint8_t> out;
  const auto put = [&](uint32_t value) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
    out.insert(out.end(), bytes, bytes + kWidth);
  };
  const auto size = [&] { return static_cast<uint32_t>(out.size()); };
  const uint32_t count = static_cast<uint32_t>(fields.size());
  std::vector<uint32_t> names;
  for (const auto& field : fields) {
    names.push_back(size());
    out.insert(out.end(), field.first, field.first + strlen(field.first) + 1);
  }
  out.resize((out.size() + kWidth - 1) / kWidth * kWidth);
  put(count);
  const uint32_t keys = size();
  for (uint32_t name : names) put(size() - name);
  put(size() - keys);
  put(kWidth);
  put(count);
  const uint32_t values = size();
  for (const auto& field : fields) put(static_cast<uint32_t>(field.second));
  out.insert(out.end(), count, static_cast<uint8_t>(kInt << 2 | kWidthBits));
  out.resize((out.size() + kWidth - 1) / kWidth * kWidth);
  put(size() - values);
  out.push_back(static_cast<uint8_t>(kMap << 2 | kWidthBits));
  out.push_back(static_cast<uint8_t>(kWidth));
  return out;
}

#endif  // FSG_TESTS_NATIVE_FLEXMAP_H_
