// Runs the kernels without an interpreter, on this machine or under an emulator:
//
//   kernels_driver names
//   kernels_driver check KERNELS SEED COUNT
//       compares every kernel with its scalar twin on COUNT random shapes
//   kernels_driver conv KERNELS THREADS REPETITIONS HEIGHT WIDTH CHANNELS_IN CHANNELS_OUT FILTER STRIDE
//   OUTPUT
//       packs a float image and convolves it (SAME, +1 padding); OUTPUT is float, int8 or packed
//   kernels_driver pack KERNELS THREADS REPETITIONS HEIGHT WIDTH CHANNELS
//   kernels_driver pool KERNELS THREADS REPETITIONS HEIGHT WIDTH CHANNELS FILTER STRIDE
//   kernels_driver block KERNELS THREADS REPETITIONS HEIGHT WIDTH CHANNELS HOW WHICH
//       a residual block: packs, convolves 3x3, adds the shortcut and packs; HOW is fused or unfused, WHICH
//       is add or, with a scale, a PReLU and a normalisation as well, all
//
// The last four print the seconds of all repetitions.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels_cases.h"
#include "kernels_check.h"

namespace {

double Seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <typename Body>
void Repeat(int repetitions, const Body& body) {
  const double start = Seconds();
  for (int i = 0; i < repetitions; ++i) body();
  printf("%.9f\n", Seconds() - start);
}

struct Arguments {
  int count;
  char** values;

  const char* Text(int i) const {
    if (i >= count) Fail("too few arguments");
    return values[i];
  }
  int Number(int i) const { return atoi(Text(i)); }
};

fsg::Window ReadWindow(const Arguments& arguments, int filter, int stride) {
  fsg::Window w = {};
  w.batch = 1;
  w.in_height = arguments.Number(5), w.in_width = arguments.Number(6);
  w.words = PackedWords(arguments.Number(7));
  w.filter_height = w.filter_width = filter;
  w.stride_height = w.stride_width = stride;
  w.dilation_height = w.dilation_width = 1;
  PlaceSame(&w);
  return w;
}

fsg::Output ReadOutput(const char* name) {
  if (strcmp(name, "float") == 0) return fsg::Output::kFloat;
  if (strcmp(name, "int8") == 0) return fsg::Output::kInt8;
  return strcmp(name, "packed") == 0 ? fsg::Output::kPacked : (Fail("no such output"), fsg::Output::kFloat);
}

void TimeConv(const Kernels& kernels, fsg::ThreadPool* pool, const Arguments& arguments) {
  Random random = {1};
  fsg::Conv shape = {};
  shape.window = ReadWindow(arguments, arguments.Number(9), arguments.Number(10));
  shape.groups = 1;
  shape.channels_in = arguments.Number(7), shape.channels_out = arguments.Number(8);
  shape.clamp_min = INT32_MIN, shape.clamp_max = INT32_MAX;
  shape.output = ReadOutput(arguments.Text(11));
  Case test(&random, shape);
  const int64_t pixels = InPixels(shape.window);
  Array<float> image(pixels * shape.channels_in);
  for (int64_t i = 0; i < image.size; ++i) image.data[i] = random.Unit();
  Array<uint8_t> out(test.OutBytes());
  fsg::ConvPlan plan = {};
  if (!fsg::PlanConv(kernels, test.conv, fsg::ThreadCount(pool), &plan)) Fail("out of memory");
  Repeat(arguments.Number(4), [&] {
    kernels.pack_float(pool, image.data, pixels, shape.channels_in, test.in.data);
    Convolve(kernels, pool, test, plan, out.data);
  });
  fsg::FreePlan(&plan);
}

// What follows the convolution of a residual block: every post-operation, in the order of the graph.
struct BlockPostOp {
  fsg::PostOpKind kind;
  float* operand;
  int64_t pixel_step;
};

void TimeBlock(const Kernels& kernels, fsg::ThreadPool* pool, const Arguments& arguments) {
  Random random = {1};
  const int channels = arguments.Number(7);
  fsg::Conv shape = {};
  shape.window = ReadWindow(arguments, 3, 1);
  shape.groups = 1;
  shape.channels_in = shape.channels_out = channels;
  shape.clamp_min = INT32_MIN, shape.clamp_max = INT32_MAX;
  shape.output = fsg::Output::kFloat;
  Case test(&random, shape);
  const int64_t pixels = InPixels(shape.window);
  Array<float> shortcut(pixels * channels), out(pixels * channels), constants(channels + 16);
  Array<uint32_t> bits(pixels * shape.window.words);
  for (int64_t i = 0; i < shortcut.size; ++i) shortcut.data[i] = random.Unit();
  using fsg::PostOpKind;
  const BlockPostOp all[] = {{PostOpKind::kMultiply, constants.data, 0},
                             {PostOpKind::kPrelu, constants.data, 0},
                             {PostOpKind::kAdd, shortcut.data, channels},
                             {PostOpKind::kMultiply, constants.data, 0},
                             {PostOpKind::kAdd, constants.data, 0}};
  const bool adds_only = strcmp(arguments.Text(9), "add") == 0,
             fuses = strcmp(arguments.Text(8), "fused") == 0;
  const BlockPostOp* const begin = adds_only ? all + 2 : all;
  const BlockPostOp* const end = adds_only ? all + 3 : all + 5;
  fsg::ConvPlan plan = {};
  if (!fsg::PlanConv(kernels, test.conv, fsg::ThreadCount(pool), &plan)) Fail("out of memory");
  FewPostOps fused(channels, pixels);
  fused.Add(PostOpKind::kDots);
  for (const BlockPostOp* post_op = begin; post_op != end; ++post_op)
    fused.Add(post_op->kind, post_op->operand, post_op->pixel_step);
  fused.Add(PostOpKind::kStore, out.data, channels);
  fused.Add(PostOpKind::kPack, bits.data, shape.window.words);
  kernels.pack_float(pool, shortcut.data, pixels, channels, test.in.data);
  Repeat(arguments.Number(4), [&] {
    if (fuses) return kernels.convolve(pool, test.conv, plan, test.in.data, &fused.post_ops);
    Convolve(kernels, pool, test, plan, out.data);
    for (const BlockPostOp* post_op = begin; post_op != end; ++post_op) {
      FewPostOps single(channels, pixels);
      single.Add(PostOpKind::kLoad, out.data, channels);
      single.Add(post_op->kind, post_op->operand, post_op->pixel_step);
      single.Add(PostOpKind::kStore, out.data, channels);
      kernels.apply(pool, single.post_ops, pixels);
    }
    kernels.pack_float(pool, out.data, pixels, channels, bits.data);
  });
  fsg::FreePlan(&plan);
}

void TimePack(const Kernels& kernels, fsg::ThreadPool* pool, const Arguments& arguments) {
  const fsg::Window w = ReadWindow(arguments, 1, 1);
  Array<float> image(InPixels(w) * arguments.Number(7));
  Array<uint32_t> out(InPixels(w) * w.words);
  Repeat(arguments.Number(4),
         [&] { kernels.pack_float(pool, image.data, InPixels(w), arguments.Number(7), out.data); });
}

void TimePool(const Kernels& kernels, fsg::ThreadPool* pool, const Arguments& arguments) {
  const fsg::Window w = ReadWindow(arguments, arguments.Number(8), arguments.Number(9));
  Array<uint32_t> in(InPixels(w) * w.words), out(OutPixels(w) * w.words);
  Repeat(arguments.Number(4), [&] { kernels.max_pool(pool, w, in.data, out.data); });
}

}  // namespace

int main(int count, char** values) {
  const Arguments arguments = {count, values};
  const char* command = arguments.Text(1);
  if (strcmp(command, "names") == 0) {
    char names[fsg::kKernelNames];
    fsg::ListKernels(names);
    puts(names);
    return 0;
  }
  const Kernels* kernels = fsg::FindKernels(arguments.Text(2));
  if (kernels == nullptr) Fail("this processor has no such kernels");
  if (strcmp(command, "check") == 0) {
    return Check(*kernels, strtoull(arguments.Text(3), nullptr, 10), arguments.Number(4));
  }
  fsg::ThreadPool* pool = fsg::MakeThreadPool(arguments.Number(3));
  if (strcmp(command, "conv") == 0) {
    TimeConv(*kernels, pool, arguments);
  } else if (strcmp(command, "pack") == 0) {
    TimePack(*kernels, pool, arguments);
  } else if (strcmp(command, "block") == 0) {
    TimeBlock(*kernels, pool, arguments);
  } else if (strcmp(command, "pool") == 0) {
    TimePool(*kernels, pool, arguments);
  } else {
    Fail("no such command");
  }
  fsg::FreeThreadPool(pool);
  return 0;
}
