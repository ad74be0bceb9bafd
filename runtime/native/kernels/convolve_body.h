// Part of kernels_body.h: the dot products of a tile of pixels, and what they are stored as.
#ifndef FSG_KERNELS_CONVOLVE_BODY_H_
#define FSG_KERNELS_CONVOLVE_BODY_H_

#include "kernels/gather_body.h"
#include "kernels/post_ops_body.h"

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

#endif  // FSG_KERNELS_CONVOLVE_BODY_H_
