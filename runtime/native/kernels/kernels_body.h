// What the fast kernels share, written once in portable vector code. Each file of an instruction set includes
// this file in a namespace of its own under the instruction set it is named after, hence no include guard. It
// defines beforehand:
//
//   FSG_KERNELS_NAME
//   kTile      pixels of a tile
//   kChannels  output channels of a filter block
//   kStep      bytes of one channel that stand together in a filter block
//   kPostOpTile pixels whose 16 channels the post-operations keep in registers
//   kGrain     binary multiply-accumulates worth a thread's attention
//   kDots      [kTile] functions: the dot products of several filter blocks with 1, 2, ... kTile patches, as
//              twice the popcounts, into rows of `lanes` int32
//   BitsBelow, BitsAbove, SignBits, RoundToInt8, as in bits_portable.h

constexpr int kLanes = 16;  // of the vectors below

using Ints = int32_t __attribute__((vector_size(64)));
using Floats = float __attribute__((vector_size(64)));

// An output pixel.
struct Place {
  int batch, y, x;
};

// A window with what the walk over its output pixels needs at every step.
struct Walk {
  Window w;
  int64_t pixel_bytes, row_bytes, image_bytes;
  int last_top;                  // where a filter still lies inside, as it does from column
  int begin_inside, end_inside;  // begin_inside up to end_inside of the output
  // A filter lies over `rows` rows of `runs` runs each: taps side by side make one run.
  int64_t tap_bytes, run_bytes, runs, run_step, rows, row_step;
  bool joins_taps;  // a run is a row of the filter
};

inline Walk WalkOver(const Conv& conv, const ConvPlan& plan) {
  Walk walk = {};
  const Window& w = walk.w = conv.window;
  walk.pixel_bytes = int64_t{4} * w.words;
  walk.row_bytes = w.in_width * walk.pixel_bytes;
  walk.image_bytes = w.in_height * walk.row_bytes;
  walk.last_top = w.in_height - 1 - (w.filter_height - 1) * w.dilation_height;
  const int last_left = w.in_width - 1 - (w.filter_width - 1) * w.dilation_width;
  walk.begin_inside = (w.pad_left + w.stride_width - 1) / w.stride_width;
  walk.end_inside = last_left + w.pad_left < 0 ? 0 : (last_left + w.pad_left) / w.stride_width + 1;
  walk.tap_bytes = walk.run_bytes = plan.tap_bytes;
  walk.runs = w.filter_width, walk.run_step = w.dilation_width * walk.pixel_bytes;
  walk.rows = w.filter_height, walk.row_step = w.dilation_height * walk.row_bytes;
  walk.joins_taps = w.dilation_width == 1 && walk.tap_bytes == walk.pixel_bytes;
  if (walk.joins_taps) {
    walk.run_bytes *= walk.runs;
    walk.runs = walk.rows, walk.run_step = walk.row_step;
    walk.rows = 1;
  }
  return walk;
}

inline Place PlaceOf(const Window& w, int64_t pixel) {
  const int64_t row = pixel / w.out_width;
  return {static_cast<int>(row / w.out_height), static_cast<int>(row % w.out_height),
          static_cast<int>(pixel % w.out_width)};
}

inline Place NextRow(const Window& w, Place at) {
  return at.y + 1 < w.out_height ? Place{at.batch, at.y + 1, 0} : Place{at.batch + 1, 0, 0};
}

// memcpy in pieces of `piece` bytes of a run at least as long; the last piece may overlap the one before.
// Runs of pieces below 16 bytes are no longer than two, those of 2 bytes no longer than one.
template <int piece, bool is_long>
inline void CopyRun(const uint8_t* from, int64_t bytes, uint8_t* to) {
  const int64_t last = bytes - piece;
  __builtin_memcpy(to, from, piece);
  if (is_long) {
    for (int64_t i = piece; i < last; i += piece) __builtin_memcpy(to + i, from + i, piece);
  }
  if (piece > 2) __builtin_memcpy(to + last, from + last, piece);
}

// `known_runs` is the number of runs, or 0 if it is not known.
template <int piece, bool is_long, int known_runs>
inline void CopyPatches(const Walk& walk, const uint8_t* from, int count, uint8_t* to, int64_t patch_bytes) {
  // In registers: for all the compiler knows, a byte written to a patch might change the walk.
  const int64_t bytes = walk.run_bytes, runs = walk.runs, run_step = walk.run_step;
  const int64_t rows = walk.rows, row_step = walk.row_step, step = walk.w.stride_width * walk.pixel_bytes;
  for (; count > 0; --count, from += step, to += patch_bytes) {
    const uint8_t* row = from;
    uint8_t* at = to;
    for (int64_t r = rows; r > 0; --r, row += row_step) {
#pragma clang loop unroll(full)
      for (int i = 0; i < known_runs; ++i, at += bytes)
        CopyRun<piece, is_long>(row + i * run_step, bytes, at);
      if (known_runs > 0) continue;
      const uint8_t* run = row;
      FSG_SHORT_LOOP
      for (int64_t i = runs; i > 0; --i, run += run_step, at += bytes)
        CopyRun<piece, is_long>(run, bytes, at);
    }
  }
}

template <int piece, bool is_long = false>
FSG_INLINE void CopyPatches(const Walk& walk, const uint8_t* from, int count, uint8_t* to,
                            int64_t patch_bytes) {
  walk.runs == 3  // of a 3x3 filter, as most are
      ? CopyPatches<piece, is_long, 3>(walk, from, count, to, patch_bytes)
      : CopyPatches<piece, is_long, 0>(walk, from, count, to, patch_bytes);
}

// The patches of `count` output pixels side by side whose filters lie inside; `from` is the first one's
// corner.
FSG_OUTLINE void GatherInside(const Walk& walk, const uint8_t* from, int count, uint8_t* to,
                              int64_t patch_bytes) {
  if (walk.run_bytes > 32) {
    CopyPatches<16, true>(walk, from, count, to, patch_bytes);
  } else if (walk.run_bytes >= 16) {
    CopyPatches<16>(walk, from, count, to, patch_bytes);
  } else if (walk.run_bytes >= 8) {
    CopyPatches<8>(walk, from, count, to, patch_bytes);
  } else if (walk.run_bytes >= 4) {
    CopyPatches<4>(walk, from, count, to, patch_bytes);
  } else {
    CopyPatches<2>(walk, from, count, to, patch_bytes);
  }
}

inline void CopyTaps(const uint8_t* from, int64_t bytes, uint8_t* to) {
  int64_t i = 0;
  FSG_SHORT_LOOP
  for (; i + 8 <= bytes; i += 8) __builtin_memcpy(to + i, from + i, 8);
  FSG_SHORT_LOOP
  for (; i < bytes; i += 2) __builtin_memcpy(to + i, from + i, 2);
}

// The first tap of `count`, and the one after the last, that lie in [0, size).
struct Taps {
  int begin, end;
};

inline Taps TapsInside(int start, int step, int count, int size) {
  Taps taps = {0, count};
  while (taps.begin < count && start + taps.begin * step < 0) ++taps.begin;
  while (taps.end > taps.begin && start + (taps.end - 1) * step >= size) --taps.end;
  return taps;
}

// The same at the border: a tap outside the image is all 0 bits, +1.
FSG_OUTLINE void GatherBorder(const Walk& walk, const uint8_t* image, int top, int left, uint8_t* to) {
  const Window& w = walk.w;
  const Taps columns = TapsInside(left, w.dilation_width, w.filter_width, w.in_width);
  const int64_t row_bytes = walk.row_bytes, pixel_bytes = walk.pixel_bytes, bytes = walk.tap_bytes;
  const int64_t filter_row = bytes * w.filter_width;
  memset(to, 0, static_cast<size_t>(filter_row * w.filter_height));
  for (int ky = 0; ky < w.filter_height; ++ky, to += filter_row) {
    const int y = top + ky * w.dilation_height;
    if (y < 0 || y >= w.in_height) continue;
    const uint8_t* from = image + y * row_bytes + left * pixel_bytes;
    if (walk.joins_taps) {
      const int64_t begin = columns.begin * bytes;
      CopyTaps(from + begin, (columns.end - columns.begin) * bytes, to + begin);
      continue;
    }
    for (int kx = columns.begin; kx < columns.end; ++kx) {
      CopyTaps(from + kx * w.dilation_width * pixel_bytes, bytes, to + kx * bytes);
    }
  }
}

// The part of one output row from column x up to `end`.
FSG_OUTLINE void GatherRow(const Walk& walk, const uint8_t* image, int top, int x, int end, uint8_t* to,
                           int64_t patch_bytes) {
  const Window& w = walk.w;
  const bool is_inside = top >= 0 && top <= walk.last_top;
  while (x < end) {
    const int left = x * w.stride_width - w.pad_left;
    const int stop = is_inside && walk.end_inside < end ? walk.end_inside : end;
    int count = 1;
    if (is_inside && x >= walk.begin_inside && x < stop) {
      count = stop - x;
      GatherInside(walk, image + top * walk.row_bytes + left * walk.pixel_bytes, count, to, patch_bytes);
    } else {
      GatherBorder(walk, image, top, left, to);
    }
    x += count;
    to += count * patch_bytes;
  }
}

// Patches [count, patch_bytes] of one group of input channels. The bytes beyond the last tap stay zero.
// Returns the place after them.
Place Gather(const Walk& walk, const uint32_t* group, Place at, int count, uint8_t* patches,
             int64_t patch_bytes) {
  const Window& w = walk.w;
  while (count > 0) {
    const auto* image = reinterpret_cast<const uint8_t*>(group) + at.batch * walk.image_bytes;
    const int columns = count < w.out_width - at.x ? count : w.out_width - at.x;
    const int top = at.y * w.stride_height - w.pad_top;
    GatherRow(walk, image, top, at.x, at.x + columns, patches, patch_bytes);
    patches += columns * patch_bytes;
    count -= columns;
    at.x += columns;
    if (at.x == w.out_width) at = NextRow(w, at);
  }
  return at;
}

// Taps outside the image were computed against 0 bits, +1; with zero padding their weights must count
// nothing.
void RemovePadding(const Window& w, const ConvPlan& plan, int top, int left, int32_t* dots) {
  const Taps rows = TapsInside(top, w.dilation_height, w.filter_height, w.in_height);
  const Taps columns = TapsInside(left, w.dilation_width, w.filter_width, w.in_width);
  const int32_t* sums = plan.tap_sums;
  for (int ky = 0; ky < w.filter_height; ++ky) {
    for (int kx = 0; kx < w.filter_width; ++kx, sums += plan.lanes) {
      if (ky >= rows.begin && ky < rows.end && kx >= columns.begin && kx < columns.end) continue;
      for (int c = 0; c < plan.lanes; ++c) dots[c] += sums[c];
    }
  }
}

// The same for the dot products [count, lanes] of the pixels at a place and after it.
FSG_OUTLINE void RemovePadding(const Walk& walk, const ConvPlan& plan, Place at, int count, int32_t* dots) {
  const Window& w = walk.w;
  for (; count > 0; --count, dots += plan.lanes) {
    const int top = at.y * w.stride_height - w.pad_top, left = at.x * w.stride_width - w.pad_left;
    const bool is_inside = at.x >= walk.begin_inside && at.x < walk.end_inside;
    if (top < 0 || top > walk.last_top || !is_inside) RemovePadding(w, plan, top, left, dots);
    if (++at.x == w.out_width) at = NextRow(w, at);
  }
}

inline Floats Transform(Ints twice, Floats multiplier, Floats bias) {
#pragma clang fp contract(off)  // as in reference.h
  return bias + multiplier * __builtin_convertvector(twice, Floats);
}

inline bool Clamps(const Conv& conv) { return conv.clamp_min != INT32_MIN || conv.clamp_max != INT32_MAX; }

inline Ints Clamp(Ints twice, int32_t low, int32_t high) {
  return __builtin_elementwise_min(__builtin_elementwise_max(twice, Ints{} + low), Ints{} + high);
}

#include "kernels/post_ops_body.h"

// A block of 16 channels of `count` pixels, of which `used` exist.
template <bool clamps, bool is_whole>
FSG_OUTLINE void FinishBlock(const Conv& conv, const ConvPlan& plan, const int32_t* dots, int64_t block,
                             int count, int used, int8_t* out) {
  const int64_t lanes = plan.lanes, channels = conv.channels_out;
  const int32_t low = conv.clamp_min, high = conv.clamp_max;
  const Floats multiplier = LoadFloats(plan.multiplier + block), bias = LoadFloats(plan.bias + block);
  for (dots += block, out += block; count > 0; --count, dots += lanes, out += channels) {
    Ints twice;
    memcpy(&twice, dots, sizeof(twice));
    if (clamps) twice = Clamp(twice, low, high);
    const Floats values = Transform(twice, multiplier, bias);
    int8_t part[kLanes];
    RoundToInt8(values, is_whole ? out : part);
    if (!is_whole) memcpy(out, part, static_cast<size_t>(used));
  }
}

void FinishInt8(const Conv& conv, const ConvPlan& plan, const int32_t* dots, int count, int8_t* out) {
  const bool clamps = Clamps(conv);
  const auto whole = clamps ? FinishBlock<true, true> : FinishBlock<false, true>;
  const auto rest = clamps ? FinishBlock<true, false> : FinishBlock<false, false>;
  int c = 0;
  for (; c + kLanes <= conv.channels_out; c += kLanes) whole(conv, plan, dots, c, count, kLanes, out);
  if (c < conv.channels_out) rest(conv, plan, dots, c, count, conv.channels_out - c, out);
}

FSG_OUTLINE void FinishBits(const Conv& conv, const ConvPlan& plan, const int32_t* dots, int count,
                            uint32_t* out) {
  const int64_t lanes = plan.lanes, words = PackedWords(conv.channels_out);
  for (; count > 0; --count, dots += lanes, out += words) {
    for (int64_t i = 0; i < words; ++i) out[i] = BitsAbove(dots + i * 32, plan.thresholds + i * 32);
  }
}

// Turns the doubled popcounts of `count` pixels into their output values.
void Finish(const Conv& conv, const ConvPlan& plan, const int32_t* dots, int64_t pixel, int count,
            Runner* runner, void* out) {
  if (conv.output == Output::kPacked) {
    uint32_t* to = static_cast<uint32_t*>(out) + pixel * PackedWords(conv.channels_out);
    FinishBits(conv, plan, dots, count, to);
  } else if (conv.output == Output::kFloat) {
    runner->Run({*static_cast<const PostOps*>(out), pixel, &conv, &plan, dots}, count);
  } else {
    FinishInt8(conv, plan, dots, count, static_cast<int8_t*>(out) + pixel * conv.channels_out);
  }
}

// The dot products of a tile's patches with all output channels. Blocks are whole: what one writes beyond the
// last channel of its group is overwritten by the next group. Returns the place after the tile.
Place TileDots(const Walk& walk, const Conv& conv, const ConvPlan& plan, const uint32_t* in, int64_t pixel,
               Place at, int count, int32_t* dots, uint8_t* patches) {
  const int64_t patch_bytes = plan.patch_bytes, lanes = plan.lanes, block_bytes = kChannels * patch_bytes;
  const int words = walk.w.words / conv.groups, channels = conv.channels_out / conv.groups;
  const auto multiply = kDots[count - 1];
  const uint8_t* filter = plan.filter;
  Place next = at;
  for (int group = 0; group < conv.groups; ++group, dots += channels) {
    const uint8_t* rows = reinterpret_cast<const uint8_t*>(in + pixel * words);
    if (!plan.is_direct) {
      next = Gather(walk, in + group * words, at, count, patches, patch_bytes);
      rows = patches;
    }
    multiply(rows, patch_bytes, filter, plan.blocks, dots, lanes);
    filter += plan.blocks * block_bytes;
  }
  return next;
}

void ConvolvePixels(const Conv& conv, const ConvPlan& plan, const uint32_t* in, int64_t begin, int64_t end,
                    int thread, void* out) {
  const Walk walk = WalkOver(conv, plan);
  uint8_t* scratch = plan.scratch + thread * plan.scratch_bytes;
  auto* dots = reinterpret_cast<int32_t*>(scratch);
  uint8_t* patches = scratch + sizeof(int32_t) * kTile * static_cast<size_t>(plan.lanes);
  Runner runner;
  if (conv.output == Output::kFloat) runner.Prepare(*static_cast<const PostOps*>(out));
  Place at = PlaceOf(walk.w, begin);
  for (int64_t pixel = begin; pixel < end; pixel += kTile) {
    const int count = end - pixel < kTile ? static_cast<int>(end - pixel) : kTile;
    const Place next = TileDots(walk, conv, plan, in, pixel, at, count, dots, patches);
    if (plan.tap_sums != nullptr) RemovePadding(walk, plan, at, count, dots);
    Finish(conv, plan, dots, pixel, count, &runner, out);
    at = next;
  }
}

void Convolve(ThreadPool* pool, const Conv& conv, const ConvPlan& plan, const uint32_t* in, void* out) {
  const Window& w = conv.window;
  const int64_t work = int64_t{8} * plan.patch_bytes * conv.channels_out;  // of a pixel
  ParallelFor(pool, static_cast<int64_t>(w.batch) * w.out_height * w.out_width, {kTile, kGrain / work + 1},
              [&](int64_t begin, int64_t end, int thread) {
                ConvolvePixels(conv, plan, in, begin, end, thread, out);
              });
}

// One row of `count` values; the bits beyond it are 0.
template <typename T>
void PackRow(const T* in, int64_t count, T zero_point, uint32_t* out) {
  for (; count >= 32; count -= 32, in += 32) *out++ = BitsBelow(in, zero_point);
  if (count == 0) return;
  T last[32];
  for (T& value : last) value = zero_point;
  memcpy(last, in, sizeof(T) * static_cast<size_t>(count));
  *out = BitsBelow(last, zero_point);
}

// Rows of 16 values: a word of bits makes two.
template <typename T>
void PackHalfWords(const T* in, int64_t rows, T zero_point, uint32_t* out) {
  for (; rows >= 2; rows -= 2, in += 32, out += 2) {
    const uint32_t bits = BitsBelow(in, zero_point);
    out[0] = bits & 0xffff;
    out[1] = bits >> 16;
  }
  if (rows > 0) PackRow<T>(in, 16, zero_point, out);
}

template <typename T>
void PackRows(const T* in, int64_t rows, int64_t channels, T zero_point, uint32_t* out) {
  if (channels == 16) return PackHalfWords(in, rows, zero_point, out);
  if (channels % 32 == 0) rows *= channels, channels = rows, rows = rows > 0;
  for (; rows > 0; --rows, in += channels, out += (channels + 31) / 32) {
    PackRow<T>(in, channels, zero_point, out);
  }
}

constexpr int64_t kPackGrain = kGrain / 32;  // values

template <typename T>
void Pack(ThreadPool* pool, const T* in, int64_t rows, int channels, T zero_point, uint32_t* out) {
  ParallelFor(pool, rows, {1, kPackGrain / channels + 1}, [=](int64_t begin, int64_t end, int) {
    PackRows(in + begin * channels, end - begin, channels, zero_point, out + begin * PackedWords(channels));
  });
}

void PackFloat(ThreadPool* pool, const float* in, int64_t rows, int channels, uint32_t* out) {
  Pack<float>(pool, in, rows, channels, 0.0f, out);
}

void PackInt8(ThreadPool* pool, const int8_t* in, int64_t rows, int channels, int zero_point, uint32_t* out) {
  Pack<int8_t>(pool, in, rows, channels, static_cast<int8_t>(zero_point), out);
}

// One row of output pixels.
void MaxPoolRow(const Window& w, const uint32_t* image, int y, uint32_t* out) {
  const int64_t row = static_cast<int64_t>(w.in_width) * w.words;
  const int top = y * w.stride_height - w.pad_top;
  const int first_y = top < 0 ? 0 : top;
  const int end_y = top + w.filter_height > w.in_height ? w.in_height : top + w.filter_height;
  for (int x = 0; x < w.out_width; ++x, out += w.words) {
    const int left = x * w.stride_width - w.pad_left;
    const int first_x = left < 0 ? 0 : left;
    const int end_x = left + w.filter_width > w.in_width ? w.in_width : left + w.filter_width;
    for (int i = 0; i < w.words; ++i) out[i] = ~uint32_t{0};
    for (int in_y = first_y; in_y < end_y; ++in_y) {
      for (int in_x = first_x; in_x < end_x; ++in_x) {
        const uint32_t* pixel = image + in_y * row + static_cast<int64_t>(in_x) * w.words;
        for (int i = 0; i < w.words; ++i) out[i] &= pixel[i];
      }
    }
  }
}

void MaxPool(ThreadPool* pool, const Window& w, const uint32_t* in, uint32_t* out) {
  const int64_t image = static_cast<int64_t>(w.in_height) * w.in_width * w.words;
  const int64_t out_row = static_cast<int64_t>(w.out_width) * w.words;
  const int64_t work = out_row * w.filter_height * w.filter_width * 32;
  ParallelFor(pool, static_cast<int64_t>(w.batch) * w.out_height, {1, kPackGrain / work + 1},
              [&](int64_t begin, int64_t end, int) {
                for (int64_t row = begin; row < end; ++row) {
                  MaxPoolRow(w, in + row / w.out_height * image, static_cast<int>(row % w.out_height),
                             out + row * out_row);
                }
              });
}

constexpr Kernels kKernels = {FSG_KERNELS_NAME, kTile,    kChannels, kStep, PackFloat,
                              PackInt8,         Convolve, MaxPool,   Apply};
