// Writes one JSON object to stdout, member by member; a library for that would be larger than the program.
#ifndef FSG_BENCHMARK_JSON_H_
#define FSG_BENCHMARK_JSON_H_

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

class Json {
 public:
  void Open(char bracket) {
    Separate();
    putchar(bracket);
    is_first_ = true;
  }
  void Close(char bracket) {
    putchar(bracket);
    is_first_ = false;
  }
  void Key(const char* key) {
    Text(key);
    putchar(':');
    is_first_ = true;
  }
  void Integer(int64_t value) {
    Separate();
    printf("%" PRId64, value);
  }
  // Not a number stands for what is not known.
  void Number(double value) {
    Separate();
    isfinite(value) ? printf("%.6g", value) : printf("null");
  }
  // nullptr stands for what is not known.
  void Text(const char* text) {
    Separate();
    if (text == nullptr) {
      printf("null");
      return;
    }
    putchar('"');
    for (; *text != '\0'; ++text) {
      const auto byte = static_cast<unsigned char>(*text);
      if (byte < 0x20) {
        printf("\\u%04x", byte);
      } else {
        if (byte == '"' || byte == '\\') putchar('\\');
        putchar(byte);
      }
    }
    putchar('"');
  }

 private:
  void Separate() {
    if (!is_first_) putchar(',');
    is_first_ = false;
  }

  bool is_first_ = true;
};

#endif  // FSG_BENCHMARK_JSON_H_
