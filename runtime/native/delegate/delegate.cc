// The LiteRT external delegate: claims the Larq Compute Engine operators, which no stock interpreter can run,
// and what it can compute in the same pass over memory.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delegate/fuse.h"
#include "delegate/partition.h"
#include "delegate/read.h"

#define FSG_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Settings {
  const char* kernels;
  int threads;  // 0: as many as the interpreter recommends
  bool fuses;
};

struct Delegate {
  TfLiteDelegate base;
  fsg::Runtime runtime;
  fsg::Profile profile;
  int threads;
  bool fuses;
};
static_assert(offsetof(Delegate, base) == 0, "the interpreter's pointer is ours");

// 0 if the text is no number of threads.
int ReadThreads(const char* text) {
  char* end;
  const long threads = strtol(text, &end, 10);
  return *end != '\0' || threads < 1 || threads > fsg::kMaxThreads ? 0 : static_cast<int>(threads);
}

void DescribeUnknownKernels(const char* name, char* message, size_t size) {
  char names[fsg::kKernelNames];
  fsg::ListKernels(names);
  const bool is_environment = strcmp(name, "auto") == 0;
  const char* aliases = fsg::FindKernels("neon") == nullptr ? "auto" : "auto, neon";
  snprintf(message, size, "fsg: %s: this processor has no kernels \"%.40s\"; it has %s, %s",
           is_environment ? "FSG_KERNELS" : "option kernels", is_environment ? getenv("FSG_KERNELS") : name,
           aliases, names);
}

// The pool cannot be made earlier than the first interpreter that says how many threads it wants. Another
// that shares the delegate shares the pool.
TfLiteStatus MakePool(TfLiteContext* context, Delegate* delegate) {
  if (delegate->runtime.pool != nullptr) return kTfLiteOk;
  const int threads = delegate->threads > 0 ? delegate->threads : context->recommended_num_threads;
  delegate->runtime.pool = fsg::MakeThreadPool(threads);
  FSG_ENSURE(context, delegate->runtime.pool != nullptr, "out of memory");
  return kTfLiteOk;
}

// A copy: the interpreter reuses the memory of its plan in the calls that follow.
TfLiteIntArray* CopyExecutionPlan(TfLiteContext* context) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return nullptr;
  const size_t bytes = sizeof(int) * (static_cast<size_t>(plan->size) + 1);
  auto* nodes = static_cast<TfLiteIntArray*>(malloc(bytes));
  if (nodes != nullptr) memcpy(nodes, plan, bytes);
  return nodes;
}

TfLiteStatus Replace(TfLiteContext* context, TfLiteDelegate* delegate, const TfLiteIntArray& nodes) {
  if (nodes.size == 0) return kTfLiteOk;
  return context->ReplaceNodeSubsetsWithDelegateKernels(context, fsg::PartitionRegistration(), &nodes,
                                                        delegate);
}

// The LCE operators, and those of integers, which the interpreter divides into partitions.
TfLiteStatus ClaimOperators(TfLiteContext* context, TfLiteDelegate* delegate, TfLiteIntArray* nodes) {
  const int total = nodes->size;
  nodes->size = 0;
  for (int i = 0; i < total; ++i) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    const int index = nodes->data[i];
    if (context->GetNodeAndRegistration(context, index, &node, &registration) != kTfLiteOk)
      return kTfLiteError;
    const bool is_lce = fsg::FindOp(registration->custom_name) != fsg::OpKind::kNone;
    const bool takes_int8 = reinterpret_cast<Delegate*>(delegate)->runtime.takes_int8;
    if (is_lce ||
        (takes_int8 && fsg::FindInt8(*context, *node, registration->builtin_code) != fsg::OpKind::kNone))
      nodes->data[nodes->size++] = index;
  }
  return Replace(context, delegate, *nodes);
}

// The units of a plan, partition by partition.
TfLiteStatus ClaimUnits(TfLiteContext* context, Delegate* delegate, const fsg::FusionPlan& plan,
                        TfLiteIntArray* nodes) {
  TfLiteStatus status = kTfLiteOk;
  delegate->runtime.plan = &plan;
  int* partition = &delegate->runtime.partition;
  for (*partition = 0; *partition < plan.partition_count && status == kTfLiteOk; ++*partition) {
    nodes->size = 0;
    for (int i = 0; i < plan.ordered_count; ++i) {
      const fsg::Unit& unit = plan.units[plan.order[i]];
      for (int m = 0; unit.partition == *partition && m < unit.member_count; ++m) {
        nodes->data[nodes->size++] = plan.members[unit.first_member + m];
      }
    }
    status = Replace(context, &delegate->base, *nodes);
  }
  delegate->runtime.plan = nullptr;
  return status;
}

TfLiteStatus ClaimNodes(TfLiteContext* context, TfLiteDelegate* base) {
  auto* delegate = reinterpret_cast<Delegate*>(base);
  if (MakePool(context, delegate) != kTfLiteOk) return kTfLiteError;
  TfLiteIntArray* nodes = CopyExecutionPlan(context);
  FSG_ENSURE(context, nodes != nullptr, "out of memory");
  fsg::FusionPlan plan = {};
  const bool fuses = delegate->fuses && fsg::PlanFusion(context, *nodes, delegate->runtime.takes_int8, &plan);
  const TfLiteStatus status =
      fuses ? ClaimUnits(context, delegate, plan, nodes) : ClaimOperators(context, base, nodes);
  fsg::FreeFusionPlan(&plan);
  free(nodes);
  return status;
}

}  // namespace

// Options: kernels = auto (the default) or a name in fsg_kernel_names; num_threads = 1 or more (by default
// the interpreter's); fuse = 1 (the default) or 0, which claims no operators but LCE's.
FSG_EXPORT TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values,
                                                         size_t count, void (*report_error)(const char*)) {
  const auto fail = [&](const char* message) -> TfLiteDelegate* {
    if (report_error != nullptr) report_error(message);
    return nullptr;
  };
  Settings settings = {"auto", 0, true};
  for (size_t i = 0; i < count; ++i) {
    if (strcmp(keys[i], "kernels") == 0) {
      settings.kernels = values[i];
    } else if (strcmp(keys[i], "num_threads") == 0) {
      settings.threads = ReadThreads(values[i]);
      if (settings.threads == 0) return fail("fsg: num_threads must be a number from 1 to 256");
    } else if (strcmp(keys[i], "fuse") == 0) {
      settings.fuses = strcmp(values[i], "0") != 0;
      if (settings.fuses && strcmp(values[i], "1") != 0) return fail("fsg: fuse must be 0 or 1");
    } else {
      return fail("fsg: the delegate's options are kernels, num_threads and fuse");
    }
  }
  const fsg::Kernels* kernels = fsg::FindKernels(settings.kernels);
  if (kernels == nullptr) {
    char message[256];
    DescribeUnknownKernels(settings.kernels, message, sizeof(message));
    return fail(message);
  }
  auto* delegate = static_cast<Delegate*>(calloc(1, sizeof(Delegate)));
  if (delegate == nullptr) return fail("fsg: out of memory");
  delegate->runtime.kernels = kernels;
  delegate->runtime.takes_int8 = fsg::TakesInt8(settings.kernels);
  delegate->runtime.profile = &delegate->profile;
  delegate->threads = settings.threads;
  delegate->fuses = settings.fuses;
  delegate->base.data = &delegate->runtime;
  delegate->base.Prepare = ClaimNodes;
  delegate->base.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  return &delegate->base;
}

FSG_EXPORT void tflite_plugin_destroy_delegate(TfLiteDelegate* base) {
  auto* delegate = reinterpret_cast<Delegate*>(base);
  if (delegate != nullptr) {
    fsg::FreeThreadPool(delegate->runtime.pool);
    free(delegate->profile.owners);
  }
  free(delegate);
}

// From now on notes every run of an operator in `events`, as long as there is room; nullptr ends that.
FSG_EXPORT void fsg_profile(TfLiteDelegate* base, fsg::Event* events, int capacity) {
  fsg::Profile* profile = &reinterpret_cast<Delegate*>(base)->profile;
  profile->events = events, profile->capacity = capacity, profile->count = 0;
}

// How many events have been noted; the next is the first again.
FSG_EXPORT int fsg_profiled(TfLiteDelegate* base) {
  fsg::Profile* profile = &reinterpret_cast<Delegate*>(base)->profile;
  const int count = profile->count;
  profile->count = 0;
  return count;
}

// The number of the partition that runs each node of the file, -1 for LiteRT's; LiteRT runs all that are not
// among those returned, whose count is stored.
FSG_EXPORT const int* fsg_partitions(TfLiteDelegate* base, int* count) {
  const fsg::Profile& profile = reinterpret_cast<Delegate*>(base)->profile;
  *count = profile.owner_count;
  return profile.owners;
}

// The name of the kernels that kernels=auto selects on this processor, or nullptr and what is wrong with
// FSG_KERNELS in `message`.
FSG_EXPORT const char* fsg_kernels(char* message, size_t size) {
  const fsg::Kernels* kernels = fsg::FindKernels("auto");
  if (kernels == nullptr) DescribeUnknownKernels("auto", message, size);
  return kernels == nullptr ? nullptr : kernels->name;
}

// Every name that `kernels` and FSG_KERNELS take on this processor, best first, separated by ", ".
FSG_EXPORT void fsg_kernel_names(char names[fsg::kKernelNames]) { fsg::ListKernels(names); }
