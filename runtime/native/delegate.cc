// The LiteRT external delegate: claims the Larq Compute Engine operators, which no stock interpreter can run.
#include <stdlib.h>
#include <string.h>

#include "partition.h"

#define FSG_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

TfLiteStatus ClaimNodes(TfLiteContext* context, TfLiteDelegate* delegate) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  const size_t bytes = sizeof(int) * (static_cast<size_t>(plan->size) + 1);
  auto* nodes = static_cast<TfLiteIntArray*>(malloc(bytes));
  FSG_ENSURE(context, nodes != nullptr, "out of memory");
  // The interpreter reuses the plan's memory in the calls below, so it is copied before they begin.
  memcpy(nodes, plan, bytes);
  const int total = nodes->size;
  nodes->size = 0;
  TfLiteStatus status = kTfLiteOk;
  for (int i = 0; i < total && status == kTfLiteOk; ++i) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    const int index = nodes->data[i];
    status = context->GetNodeAndRegistration(context, index, &node, &registration);
    if (status == kTfLiteOk && fsg::FindOp(registration->custom_name) != fsg::OpKind::kNone) {
      nodes->data[nodes->size++] = index;
    }
  }
  if (status == kTfLiteOk && nodes->size > 0) {
    status = context->ReplaceNodeSubsetsWithDelegateKernels(context, fsg::PartitionRegistration(), nodes,
                                                            delegate);
  }
  free(nodes);
  return status;
}

}  // namespace

// Options: kernels = auto (the default), reference, or the name of an instruction set as fsg_kernels gives
// it.
FSG_EXPORT TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values,
                                                         size_t count, void (*report_error)(const char*)) {
  const auto fail = [&](const char* message) -> TfLiteDelegate* {
    if (report_error != nullptr) report_error(message);
    return nullptr;
  };
  const char* name = "auto";
  for (size_t i = 0; i < count; ++i) {
    if (strcmp(keys[i], "kernels") != 0) return fail("fsg: the only delegate option is kernels");
    name = values[i];
  }
  const fsg::Kernels* kernels = fsg::FindKernels(name);
  if (kernels == nullptr) return fail("fsg: this processor has no kernels of that name; try kernels=auto");
  auto* delegate = static_cast<TfLiteDelegate*>(calloc(1, sizeof(TfLiteDelegate)));
  if (delegate == nullptr) return fail("fsg: out of memory");
  delegate->data = const_cast<fsg::Kernels*>(kernels);
  delegate->Prepare = ClaimNodes;
  delegate->flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  return delegate;
}

FSG_EXPORT void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) { free(delegate); }

// The name of the kernels that kernels=auto selects on this processor.
FSG_EXPORT const char* fsg_kernels() { return fsg::FindKernels("auto")->name; }
