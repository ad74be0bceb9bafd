// This room is for the program that measures models on boards, with libc alone. It may include
// delegate/profile.h and no more of the other rooms. Here is LiteRT's classic C interface, found in a library
// at run time: nothing of it is needed to build.
#ifndef FSG_BENCHMARK_LITERT_H_
#define FSG_BENCHMARK_LITERT_H_

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

void* OpenLibrary(const char* path);

// Stores the address of a library's function, or fails.
void FindFunction(void* library, const char* name, void** function);

template <typename Function>
void Find(void* library, const char* name, Function** function) {
  FindFunction(library, name, reinterpret_cast<void**>(function));
}

struct LiteRt {
  void* (*model_from_file)(const char* path);
  void* (*options_create)();
  void (*options_set_threads)(void* options, int32_t threads);
  void (*options_add_delegate)(void* options, void* delegate);
  void (*options_set_reporter)(void* options, void (*report)(void*, const char*, va_list), void* user);
  void* (*interpreter_create)(const void* model, const void* options);
  int (*allocate)(void* interpreter);
  int (*invoke)(void* interpreter);
  int32_t (*input_count)(const void* interpreter);
  int32_t (*output_count)(const void* interpreter);
  void* (*input)(const void* interpreter, int32_t index);
  const void* (*output)(const void* interpreter, int32_t index);
  void* (*data)(const void* tensor);
  size_t (*bytes)(const void* tensor);
  const char* (*name)(const void* tensor);
  int (*type)(const void* tensor);
  int32_t (*rank)(const void* tensor);
  int32_t (*dim)(const void* tensor, int32_t axis);
  const char* (*version)();

  explicit LiteRt(void* library);
};

#endif  // FSG_BENCHMARK_LITERT_H_
