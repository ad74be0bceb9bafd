#include "benchmark/litert.h"

#include <dlfcn.h>

#include "benchmark/fail.h"

void* OpenLibrary(const char* path) {
  void* library = dlopen(path, RTLD_NOW);
  if (library == nullptr) Fail("%s does not load: %s", path, dlerror());
  return library;
}

void FindFunction(void* library, const char* name, void** function) {
  *function = dlsym(library, name);
  if (*function == nullptr)
    Fail("the library has no function %s; is it LiteRT's or fsg's of this version?", name);
}

LiteRt::LiteRt(void* library) {
  Find(library, "TfLiteModelCreateFromFile", &model_from_file);
  Find(library, "TfLiteInterpreterOptionsCreate", &options_create);
  Find(library, "TfLiteInterpreterOptionsSetNumThreads", &options_set_threads);
  Find(library, "TfLiteInterpreterOptionsAddDelegate", &options_add_delegate);
  Find(library, "TfLiteInterpreterOptionsSetErrorReporter", &options_set_reporter);
  Find(library, "TfLiteInterpreterCreate", &interpreter_create);
  Find(library, "TfLiteInterpreterAllocateTensors", &allocate);
  Find(library, "TfLiteInterpreterInvoke", &invoke);
  Find(library, "TfLiteInterpreterGetInputTensorCount", &input_count);
  Find(library, "TfLiteInterpreterGetOutputTensorCount", &output_count);
  Find(library, "TfLiteInterpreterGetInputTensor", &input);
  Find(library, "TfLiteInterpreterGetOutputTensor", &output);
  Find(library, "TfLiteTensorData", &data);
  Find(library, "TfLiteTensorByteSize", &bytes);
  Find(library, "TfLiteTensorName", &name);
  Find(library, "TfLiteTensorType", &type);
  Find(library, "TfLiteTensorNumDims", &rank);
  Find(library, "TfLiteTensorDim", &dim);
  Find(library, "TfLiteVersion", &version);
}
