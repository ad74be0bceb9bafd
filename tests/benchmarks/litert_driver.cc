// Runs a model in LiteRT's C library with the delegate, on this machine or under an emulator:
//
//   litert_driver LITERT DELEGATE FUSE REPETITIONS MODEL
//
// fills the model's only input with random values and prints a checksum of its only output's bits.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

namespace {

[[noreturn]] void Fail(const char* what) {
  fprintf(stderr, "litert_driver: %s\n", what);
  exit(2);
}

// A function of a library, declared by the type it is stored in.
template <typename Function>
void Find(void* library, const char* name, Function** function) {
  *function = reinterpret_cast<Function*>(dlsym(library, name));
  if (*function == nullptr) Fail(name);
}

void* Open(const char* path) {
  void* library = dlopen(path, RTLD_NOW);
  if (library == nullptr) Fail(dlerror());
  return library;
}

struct LiteRt {
  void* (*model_from_file)(const char* path);
  void* (*options_create)();
  void (*options_set_threads)(void* options, int32_t threads);
  void (*options_add_delegate)(void* options, void* delegate);
  void* (*interpreter_create)(const void* model, const void* options);
  int (*allocate)(void* interpreter);
  int (*invoke)(void* interpreter);
  void* (*input)(const void* interpreter, int32_t index);
  const void* (*output)(const void* interpreter, int32_t index);
  void* (*data)(const void* tensor);
  size_t (*bytes)(const void* tensor);

  explicit LiteRt(void* library) {
    Find(library, "TfLiteModelCreateFromFile", &model_from_file);
    Find(library, "TfLiteInterpreterOptionsCreate", &options_create);
    Find(library, "TfLiteInterpreterOptionsSetNumThreads", &options_set_threads);
    Find(library, "TfLiteInterpreterOptionsAddDelegate", &options_add_delegate);
    Find(library, "TfLiteInterpreterCreate", &interpreter_create);
    Find(library, "TfLiteInterpreterAllocateTensors", &allocate);
    Find(library, "TfLiteInterpreterInvoke", &invoke);
    Find(library, "TfLiteInterpreterGetInputTensor", &input);
    Find(library, "TfLiteInterpreterGetOutputTensor", &output);
    Find(library, "TfLiteTensorData", &data);
    Find(library, "TfLiteTensorByteSize", &bytes);
  }
};

void* MakeDelegate(void* library, const char* fuse) {
  void* (*create)(const char* const* keys, const char* const* values, size_t count,
                  void (*report)(const char*));
  Find(library, "tflite_plugin_create_delegate", &create);
  const char* const keys[] = {"fuse"};
  void* delegate = create(keys, &fuse, 1, nullptr);
  if (delegate == nullptr) Fail("no delegate");
  return delegate;
}

}  // namespace

int main(int count, char** values) {
  if (count != 6) Fail("expected LITERT DELEGATE FUSE REPETITIONS MODEL");
  const LiteRt litert(Open(values[1]));
  void* options = litert.options_create();
  litert.options_set_threads(options, 1);
  litert.options_add_delegate(options, MakeDelegate(Open(values[2]), values[3]));
  void* interpreter = litert.interpreter_create(litert.model_from_file(values[5]), options);
  if (interpreter == nullptr || litert.allocate(interpreter) != 0) Fail("this model is refused");
  void* input = litert.input(interpreter, 0);
  auto* floats = static_cast<float*>(litert.data(input));
  uint32_t random = 1;
  for (size_t i = 0; i < litert.bytes(input) / sizeof(float); ++i) {
    random = random * 1664525u + 1013904223u;
    floats[i] = static_cast<float>(static_cast<int32_t>(random)) / 2147483648.0f;
  }
  for (int i = atoi(values[4]); i > 0; --i) {
    if (litert.invoke(interpreter) != 0) Fail("the inference failed");
  }
  const void* output = litert.output(interpreter, 0);
  const auto* bytes = static_cast<const uint8_t*>(litert.data(output));
  uint64_t checksum = 14695981039346656037u;  // FNV-1a
  for (size_t i = 0; i < litert.bytes(output); ++i) checksum = (checksum ^ bytes[i]) * 1099511628211u;
  printf("%016llx\n", static_cast<unsigned long long>(checksum));
  return 0;
}
